# cmake -D include=... -P verbs.cmake
# rotate, unrotate and rotate_gradient are nine functions, all in kernels/rotate.hpp: whatever rotates in another way
# has a name of its own, so that no call finds an overload its reader did not think of.
cmake_policy(VERSION 3.25)
file(GLOB_RECURSE headers ${include}/*.hpp)
set(found 0)
foreach(header IN LISTS headers)
    file(READ ${header} text)
    string(REGEX MATCHALL "(bool|void|auto|int|T|heads_view<[^>]*>) (rotate|unrotate|rotate_gradient)\\(" functions "${text}")
    list(LENGTH functions count)
    if(count GREATER 0 AND NOT header MATCHES "/kernels/rotate\\.hpp$")
        message(SEND_ERROR "${header}: ${functions}")
    endif()
    math(EXPR found "${found} + ${count}")
endforeach()
if(NOT found EQUAL 9)
    message(FATAL_ERROR "rotate, unrotate and rotate_gradient are ${found} functions, not nine")
endif()
message("nine functions")
