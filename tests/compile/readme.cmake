# Writes every C++ block of the README and of the examples' page into one source: what is at file scope stays
# there, a whole program becomes a function of another name that returns nothing, the rest goes into one
# function that has what an engine would have.
cmake_policy(VERSION 3.20)
file(READ ${readme} rest)
file(READ ${examples} more)
string(APPEND rest "\n${more}")
set(fence "```cpp\n")
set(scopes "")
set(bodies "")
set(count 0)
while(TRUE)
    string(FIND "${rest}" "${fence}" start)
    if(start EQUAL -1)
        break()
    endif()
    math(EXPR start "${start} + 7")
    string(SUBSTRING "${rest}" ${start} -1 rest)
    string(FIND "${rest}" "```" end)
    string(SUBSTRING "${rest}" 0 ${end} block)
    math(EXPR end "${end} + 3")
    string(SUBSTRING "${rest}" ${end} -1 rest)
    math(EXPR count "${count} + 1")
    string(REPLACE ";" "@end@" block "${block}")  # CMake's lists would lose them
    string(REGEX MATCHALL "(#include|namespace)[^\n]*\n" scope "${block}")
    string(REGEX REPLACE "(#include|namespace)[^\n]*\n" "" body "${block}")
    if(body MATCHES "int main\\(")
        string(REPLACE "int main(" "void program_${count}(" program "${body}")
        string(APPEND scope "${program}\n")
        set(body "")
    endif()
    list(JOIN scope "" scope)
    string(REPLACE "@end@" ";" scope "${scope}")
    string(REPLACE "@end@" ";" body "${body}")
    string(APPEND scopes "${scope}")
    string(APPEND bodies "{\n${body}}\n")
endwhile()
if(count EQUAL 0)
    message(FATAL_ERROR "the README has no C++ block")
endif()
file(WRITE ${output} "// Every C++ block of the README, in order.
#include <cstdint>
#include <vector>
${scopes}
struct layer {
    rw::bf16 *q, *k;
};

void as_printed([[maybe_unused]] std::vector<layer>& layers,
                [[maybe_unused]] const std::vector<std::int32_t>& positions, [[maybe_unused]] float* q,
                [[maybe_unused]] float* k, [[maybe_unused]] float* y, [[maybe_unused]] const float* cos,
                [[maybe_unused]] const float* sin, [[maybe_unused]] const float* cos_sin_cache,
                [[maybe_unused]] const std::int64_t* ids, [[maybe_unused]] rw::index batches,
                [[maybe_unused]] rw::index tokens) {
${bodies}}
")
