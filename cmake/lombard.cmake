# Helpers that keep a folder's CMakeLists.txt to a few lines.
find_package(Threads REQUIRED)
find_package(absl REQUIRED)
if(LOMBARD_TESTS)
  find_package(GTest REQUIRED)
endif()

# Flags that every target of ours carries; an interface library, so nothing is set directory-wide.
add_library(lombard_flags INTERFACE)
target_include_directories(lombard_flags INTERFACE ${PROJECT_SOURCE_DIR})
set(lombard_warnings -Wall -Wextra -Wno-sign-compare -Wno-missing-field-initializers)
target_compile_options(lombard_flags INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${lombard_warnings}>")
if(LOMBARD_WERROR)
  # g++ 12 sees overlaps and uninitialized members inside std::string and std::variant that are not there (GCC PR 105651).
  target_compile_options(lombard_flags INTERFACE
    "$<$<COMPILE_LANGUAGE:CXX>:-Werror;-Wno-error=restrict;-Wno-error=maybe-uninitialized>"
    $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
endif()
if(LOMBARD_SANITIZE)
  target_compile_options(lombard_flags INTERFACE
    "$<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${LOMBARD_SANITIZE};-fno-omit-frame-pointer;-fno-sanitize-recover=all>")
  target_link_options(lombard_flags INTERFACE -fsanitize=${LOMBARD_SANITIZE})
endif()
target_link_libraries(lombard_flags INTERFACE Threads::Threads)

# lombard_library(NAME kvpool SOURCES a.cc DEPS base absl::span): target lombard_kvpool, alias lombard::kvpool.
# A dependency of ours is named lombard::x; DEPS are public.
function(lombard_library)
  cmake_parse_arguments(arg "" "NAME" "SOURCES;DEPS" ${ARGN})
  add_library(lombard_${arg_NAME} STATIC ${arg_SOURCES})
  add_library(lombard::${arg_NAME} ALIAS lombard_${arg_NAME})
  target_link_libraries(lombard_${arg_NAME} PUBLIC lombard_flags ${arg_DEPS})
endfunction()

# lombard_gpu_library(NAME gpu_kernels SOURCES a.cc b.cu DEPS base GPU_DEPS device): two libraries of the same sources,
#   lombard::gpu_kernels           for GPUs, .cu by nvcc; made when LOMBARD_HAS_CUDA, or always with WITHOUT_CUDA (then no .cu)
#   lombard::gpu_kernels_emulated  for tests, .cu as plain C++ on the emulated device (docs/gpu.md); made with the tests
# GPU_DEPS are libraries of this kind: each flavour links theirs. REAL_SOURCES are those of the first alone.
function(lombard_gpu_library)
  cmake_parse_arguments(arg "WITHOUT_CUDA" "NAME" "SOURCES;REAL_SOURCES;DEPS;GPU_DEPS" ${ARGN})
  set(real_deps ${arg_GPU_DEPS})
  list(TRANSFORM real_deps PREPEND lombard::)
  if(LOMBARD_HAS_CUDA OR arg_WITHOUT_CUDA)
    lombard_library(NAME ${arg_NAME} SOURCES ${arg_SOURCES} ${arg_REAL_SOURCES} DEPS ${arg_DEPS} ${real_deps})
    if(LOMBARD_HAS_CUDA)
      target_link_libraries(lombard_${arg_NAME} PUBLIC CUDA::cudart_static)
      add_dependencies(cuda_kernels lombard_${arg_NAME})
    endif()
  endif()
  if(LOMBARD_TESTS)
    set(sources)
    foreach(source IN LISTS arg_SOURCES)
      if(source MATCHES "[.]cu$")
        # A file has one language per folder; the emulated flavour compiles another that includes it.
        file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/emulated/${source}.cc
          CONTENT "#include \"${CMAKE_CURRENT_SOURCE_DIR}/${source}\"\n")
        set(source ${CMAKE_CURRENT_BINARY_DIR}/emulated/${source}.cc)
      endif()
      list(APPEND sources ${source})
    endforeach()
    set(emulated_deps ${real_deps})
    list(TRANSFORM emulated_deps APPEND _emulated)
    lombard_library(NAME ${arg_NAME}_emulated SOURCES ${sources} DEPS ${arg_DEPS} ${emulated_deps} lombard::emulation)
  endif()
endfunction()

# lombard_gpu_test(NAME x_test SOURCES ... DEPS ... GPU_DEPS ...): x_test_emulated, and with CUDA x_test, which is skipped where no
# GPU is; otherwise as lombard_test.
function(lombard_gpu_test)
  cmake_parse_arguments(arg "" "NAME;TIMEOUT" "SOURCES;DEPS;GPU_DEPS;LABELS" ${ARGN})
  set(deps ${arg_GPU_DEPS})
  list(TRANSFORM deps PREPEND lombard::)
  if(LOMBARD_HAS_CUDA)
    lombard_test(NAME ${arg_NAME} SOURCES ${arg_SOURCES} DEPS ${deps} ${arg_DEPS} TIMEOUT "${arg_TIMEOUT}" LABELS gpu ${arg_LABELS})
  endif()
  list(TRANSFORM deps APPEND _emulated)
  lombard_test(NAME ${arg_NAME}_emulated SOURCES ${arg_SOURCES} DEPS ${deps} ${arg_DEPS}
    TIMEOUT "${arg_TIMEOUT}" LABELS ${arg_LABELS})
endfunction()

# lombard_test(NAME kv_pool_test SOURCES kv_pool_test.cc DEPS lombard::kvpool [TIMEOUT 60] [LABELS x])
# A program of which nothing ran is reported as skipped (tests/support/test_main.cc).
function(lombard_test)
  cmake_parse_arguments(arg "" "NAME;TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  if(arg_NAME MATCHES "gpu.*_test$" AND NOT "gpu" IN_LIST arg_LABELS)
    message(FATAL_ERROR "${arg_NAME}: launch/gpu_check takes *gpu*_test for tests on a GPU; use lombard_gpu_test or another name")
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 60)
  endif()
  add_executable(${arg_NAME} ${arg_SOURCES})
  target_link_libraries(${arg_NAME} PRIVATE ${arg_DEPS} lombard_flags lombard::test_main GTest::gmock)
  add_test(NAME ${arg_NAME} COMMAND ${arg_NAME} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${arg_NAME} PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "${arg_LABELS}" SKIP_RETURN_CODE 77)
endfunction()

# lombard_mpi_test(NAME x RANKS 1 2 4 PROGRAM target [ARGS ...] [LOSES n] [TIMEOUT 60]): tests x.np1, x.np2, ... under mpirun, label mpi.
# LOSES: that many ranks die on purpose; the others must record a good end (tests/mpi/survivors.sh).
function(lombard_mpi_test)
  cmake_parse_arguments(arg "" "NAME;PROGRAM;LOSES;TIMEOUT" "RANKS;ARGS" ${ARGN})
  find_package(MPI REQUIRED COMPONENTS CXX)
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 60)
  endif()
  foreach(ranks IN LISTS arg_RANKS)
    set(command ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks} --bind-to none $<TARGET_FILE:${arg_PROGRAM}> ${arg_ARGS})
    if(arg_LOSES)
      list(INSERT command 1 --enable-recovery)
      math(EXPR survivors "${ranks} - ${arg_LOSES}")
      list(PREPEND command ${PROJECT_SOURCE_DIR}/tests/mpi/survivors.sh ${survivors})
    endif()
    add_test(NAME ${arg_NAME}.np${ranks} COMMAND ${command} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    # Root and more ranks than cores are ordinary on test machines and in containers.
    set_tests_properties(${arg_NAME}.np${ranks} PROPERTIES LABELS mpi PROCESSORS ${ranks} TIMEOUT ${arg_TIMEOUT} ENVIRONMENT
      "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMPI_MCA_rmaps_base_oversubscribe=1")
  endforeach()
endfunction()
