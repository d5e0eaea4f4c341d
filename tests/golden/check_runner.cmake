# The golden runner must be able to fail: feeds it good and spoiled vectors and checks verdict, tally and
# exit code.
# Usage: cmake -D RUNNER=<ropewalk_golden> -D WORK=<scratch directory> [-D EMULATOR=<command>] -P check_runner.cmake

if(NOT RUNNER OR NOT WORK)
  message(FATAL_ERROR "check_runner: RUNNER and WORK must be given")
endif()
file(REMOVE_RECURSE "${WORK}")
file(MAKE_DIRECTORY "${WORK}")

# Position 0 turns nothing, so the right answer is the input: readable without a calculator.
set(input "0.1, -0.2, 0.3, 0.4")
function(vector file q_rot)
  cmake_parse_arguments(V "" "SYSTEM;CONFIG;INPUT;SHAPE;EXTRA" "" ${ARGN})
  if(NOT V_SYSTEM)
    set(V_SYSTEM "RoPE rotation")
  endif()
  if(NOT V_INPUT)
    set(V_INPUT "${input}")
  endif()
  if(NOT V_SHAPE)
    set(V_SHAPE "1, 1, 1, 4")
  endif()
  file(WRITE "${WORK}/${file}.json"
"{\"system\": \"${V_SYSTEM}\", \"source\": \"written by hand\", \"case\": \"${file}\",
 \"config\": {\"layout\": \"half\", \"head_dim\": 4, \"base\": 10000.0${V_CONFIG}},
 \"inputs\": {\"q\": {\"shape\": [1, 1, 1, 4], \"data\": [${V_INPUT}]}, \"positions\": {\"shape\": [1], \"data\": [0]}},
 \"outputs\": {\"q_rot\": {\"shape\": [${V_SHAPE}], \"data\": [${q_rot}]}${V_EXTRA}},
 \"tolerance\": {\"q_rot\": {\"abs\": 1e-10, \"rel\": 0}}}")
endfunction()

# expect(<paths> CODE <code> OUTPUT <regex>...): every regex must match the output.
function(expect)
  cmake_parse_arguments(E "" "CODE" "PATHS;OUTPUT" ${ARGN})
  execute_process(COMMAND ${EMULATOR} "${RUNNER}" ${E_PATHS} RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE err)
  if(NOT code STREQUAL E_CODE)
    message(SEND_ERROR "${E_PATHS}: exit code ${code}, expected ${E_CODE}\n${out}${err}")
  endif()
  foreach(pattern IN LISTS E_OUTPUT)
    if(NOT "${out}${err}" MATCHES "${pattern}")
      message(SEND_ERROR "${E_PATHS}: no match for \"${pattern}\" in\n${out}${err}")
    endif()
  endforeach()
endfunction()
function(expect_verdict file verdict why)
  set(tally_PASS "1 passed, 0 failed, 0 skipped")
  set(tally_FAIL "0 passed, 1 failed, 0 skipped")
  set(tally_UNSUPPORTED "0 passed, 0 failed, 1 skipped")
  set(code 1)
  if(verdict STREQUAL "PASS")
    set(code 0)
  endif()
  expect(PATHS "${WORK}/${file}.json" CODE ${code} OUTPUT "^${verdict}  [^\n]*${why}" "${tally_${verdict}}\n$")
endfunction()

vector(good "${input}")
expect_verdict(good PASS "q_rot.*error .*, bound ")
vector(spoiled "0.1, -0.2, 0.300000001, 0.4")  # one number off by 10 times the tolerance
expect_verdict(spoiled FAIL "q_rot.2. error 1e-09, bound 1e-10")
vector(within "0.1, -0.2, 0.30000000005, 0.4")  # half the tolerance
expect_verdict(within PASS "q_rot.2. error 5e-11, bound 1e-10")
vector(f32_spoiled "${input}" CONFIG ", \"suggested_f32_abs\": 1e-12")  # 0.1 is not a float
expect_verdict(f32_spoiled FAIL "q_rot .f32.")
vector(not_produced "${input}" EXTRA ", \"scores\": {\"shape\": [1], \"data\": [0]}")
expect_verdict(not_produced FAIL "scores: not produced")
vector(other_shape "${input}" SHAPE "1, 1, 4")
expect_verdict(other_shape FAIL "q_rot: shape .1,1,1,4. ")
vector(other_count "0.1, -0.2, 0.3")
expect_verdict(other_count FAIL "outputs.q_rot: shape")
vector(unknown "${input}" SYSTEM "A system nobody wrote")
expect_verdict(unknown UNSUPPORTED "A system nobody wrote: no handler")
vector(bad_config "${input}" CONFIG ", \"rotary_dim\": 3")
expect_verdict(bad_config FAIL "must be even, got 3")
vector(text_as_number "${input}" CONFIG ", \"rotary_dim\": \"four\"")
expect_verdict(text_as_number FAIL "config.rotary_dim must be a number")
vector(infinite "${input}" INPUT "1e400, 0, 0, 0")
expect_verdict(infinite FAIL "")
# 1e300 is no float, so the f32 result is not a number however wide the bound.
vector(not_a_number "0, 0, 1e300, 0" INPUT "0, 0, 1e300, 0" CONFIG ", \"suggested_f32_abs\": 1e305")
expect_verdict(not_a_number FAIL "q_rot .f32..0. error")
file(WRITE "${WORK}/malformed.json" "{\"system\": \"RoPE rotation\", ")
expect_verdict(malformed FAIL "parse error")
file(WRITE "${WORK}/not_an_object.json" "[1, 2]")
expect_verdict(not_an_object FAIL "JSON object")
file(WRITE "${WORK}/no_outputs.json" "{\"system\": \"RoPE rotation\", \"outputs\": {}}")
expect_verdict(no_outputs FAIL "nothing to compare")

# All of them at once: the tally counts each, and one bad file among good ones is enough to fail.
expect(PATHS "${WORK}" CODE 1 OUTPUT "2 passed, 12 failed, 1 skipped\n$")
file(MAKE_DIRECTORY "${WORK}/empty")
expect(PATHS "${WORK}/empty" CODE 2 OUTPUT "no \\*.json")

# A file whose tensors do not fit its own grid fails by itself, also where assertions would end the run (a
# runner of the core's vectors alone does not know the system).
file(MAKE_DIRECTORY "${WORK}/misfit")
file(WRITE "${WORK}/misfit/tokens.json"
"{\"system\": \"RoPE-ViT axial\", \"config\": {\"head_dim\": 4, \"grid_w\": 2, \"grid_h\": 1, \"num_prefix_tokens\": 0},
 \"inputs\": {\"q\": {\"shape\": [1, 1, 3, 4], \"data\": [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]},
              \"k\": {\"shape\": [1, 1, 2, 4], \"data\": [1, 2, 3, 4, 1, 2, 3, 4]}},
 \"outputs\": {\"q_rot\": {\"shape\": [1], \"data\": [0]}}}")
file(WRITE "${WORK}/misfit/channels.json"
"{\"system\": \"RoPE-ViT axial\", \"config\": {\"head_dim\": 8, \"grid_w\": 1, \"grid_h\": 1},
 \"inputs\": {\"q\": {\"shape\": [1, 1, 1, 4], \"data\": [1, 2, 3, 4]},
              \"k\": {\"shape\": [1, 1, 1, 4], \"data\": [1, 2, 3, 4]}},
 \"outputs\": {\"q_rot\": {\"shape\": [1], \"data\": [0]}}}")
expect(PATHS "${WORK}/misfit" CODE 1
       OUTPUT "inputs.q must have 2 tokens, got 3|tokens.json  RoPE-ViT axial: no handler"
              "inputs.q must have 8 channels, got 4|channels.json  RoPE-ViT axial: no handler" "0 passed, ")
expect(PATHS "${WORK}/absent" CODE 2 OUTPUT "no such file")
expect(CODE 2 OUTPUT "usage")
