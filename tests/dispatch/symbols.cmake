# cmake -D nm=... -D tag=... -D objects=... -P symbols.cmake
# Every symbol that a unit offers to the linker is its entry, or carries the unit's tag in its mangled name.
# Whatever else were weak or global could be the copy that the linker keeps for the whole program, and an older
# CPU would meet this unit's instructions in it.
string(LENGTH ${tag} length)
set(own "8ropewalk4v0_1${length}${tag}")
execute_process(COMMAND ${nm} --defined-only ${objects} OUTPUT_VARIABLE text RESULT_VARIABLE code)
if(NOT code EQUAL 0)
    message(FATAL_ERROR "nm failed on ${objects}")
endif()
string(REPLACE "\n" ";" lines "${text}")
set(entry FALSE)
set(count 0)
foreach(line IN LISTS lines)
    if(NOT line MATCHES "^[0-9a-f]+ ([A-Zuvwi]) (.*)$")
        continue()  # local symbols are nobody else's
    endif()
    set(symbol ${CMAKE_MATCH_2})
    math(EXPR count "${count} + 1")
    if(symbol STREQUAL "ropewalk_unit_${tag}")
        set(entry TRUE)
    elseif(symbol MATCHES "^DW\\.ref\\.")
        # A pointer to the exception personality, the same in every unit.
    else()
        string(FIND "${symbol}" "${own}" at)
        if(at EQUAL -1)
            message(FATAL_ERROR "shared with other units: ${symbol}")
        endif()
    endif()
endforeach()
if(NOT entry)
    message(FATAL_ERROR "ropewalk_unit_${tag} is missing")
endif()
message("${tag}: ${count} symbols, all its own")
