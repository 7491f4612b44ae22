# Finds SIMDe, headers that emulate AVX-512 for one test object.
find_path(SIMDE_INCLUDE_DIR simde/x86/avx512.h)
if(NOT SIMDE_INCLUDE_DIR)
    message(WARNING "SIMDe is missing, so the AVX-512 kernels are tested only where the CPU has AVX-512: "
                    "apt-get install libsimde-dev")
endif()
