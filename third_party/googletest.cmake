# Finds GoogleTest: an installed package, or the sources that Debian's googletest package leaves in /usr/src.
find_package(GTest CONFIG QUIET)
if(NOT GTest_FOUND AND EXISTS /usr/src/googletest/CMakeLists.txt)
    set(INSTALL_GTEST OFF)
    add_subdirectory(/usr/src/googletest ${CMAKE_BINARY_DIR}/googletest EXCLUDE_FROM_ALL)
    if(NOT TARGET GTest::gtest_main)  # googletest before 1.11 defines gtest_main alone
        add_library(GTest::gtest_main ALIAS gtest_main)
    endif()
    set(GTest_FOUND TRUE)
endif()
if(NOT GTest_FOUND)
    message(WARNING "GoogleTest is missing, so the C++ tests are NOT built and NOT run: apt-get install libgtest-dev")
endif()
