# Finds Google Benchmark.
find_package(benchmark CONFIG QUIET)
if(NOT benchmark_FOUND)
    message(WARNING "Google Benchmark is missing, so the C++ benches are not built: apt-get install libbenchmark-dev")
endif()
