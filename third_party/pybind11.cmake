# Finds Python's headers and pybind11 (of the same Python). A wheel cannot do without them; a C++ developer can.
find_package(Python 3.10 COMPONENTS Interpreter Development.Module)
if(Python_FOUND)
    if(NOT pybind11_DIR)
        execute_process(
            COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir
            OUTPUT_VARIABLE pybind11_hint OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    endif()
    set(PYBIND11_FINDPYTHON ON)
    find_package(pybind11 2.13 CONFIG HINTS ${pybind11_hint})
endif()
if(NOT pybind11_FOUND)
    if(SKBUILD)
        message(FATAL_ERROR "pybind11 >= 2.13 or the Python headers are missing: pip install pybind11, "
                            "apt-get install python3-dev")
    endif()
    message(WARNING "Without pybind11 >= 2.13 and the Python headers the extension moestro._core is not built: "
                    "pip install pybind11, apt-get install python3-dev")
endif()
