#!/usr/bin/env bash
# Runs pytest on the installed package, its CUDA tests on kernels that the processor executes, and ctest on build/dev,
# whatever the others said, then repeats the closing line of each. Fails when one failed. Logs stay in build/logs/.
set -uo pipefail
cd "$(dirname "$0")/.."
mkdir -p build/logs

.venv/bin/python -m pytest ${PYTEST_ARGS:-} 2>&1 | tee build/logs/pytest.log
pytest_status=$?

if compgen -G 'build/dev/shim/moestro/_core*.so' >/dev/null; then
    PYTHONPATH=build/dev/shim .venv/bin/python -m pytest -m cuda ${PYTEST_ARGS:-} 2>&1 | tee build/logs/pytest-cuda.log
    cuda_status=$?
else
    echo "The CUDA tests did NOT run: GoogleTest is missing (apt-get install libgtest-dev)" | tee build/logs/pytest-cuda.log
    cuda_status=0
fi

if compgen -G 'build/dev/tests/cpp/moestro_test_*' >/dev/null; then
    ctest --preset dev -j "${JOBS:-2}" 2>&1 | tee build/logs/ctest.log
    ctest_status=$?
else
    echo "The C++ tests did NOT run: GoogleTest is missing (apt-get install libgtest-dev)" | tee build/logs/ctest.log
    ctest_status=0
fi

echo
echo "pytest: $(grep -E '(passed|failed|error|skipped|no tests ran).* in [0-9.]+s' build/logs/pytest.log | tail -n 1)"
echo "cuda:   $(grep -E '(passed|failed|error|skipped|no tests ran).* in [0-9.]+s|did NOT run' build/logs/pytest-cuda.log | tail -n 1)"
echo "ctest:  $(grep -E 'tests passed|tests failed|did NOT run|No tests were found' build/logs/ctest.log | tail -n 1)"
((pytest_status == 0 && cuda_status == 0 && ctest_status == 0))
