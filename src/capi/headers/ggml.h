#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifndef GGML_API
#define GGML_API __attribute__((visibility("default")))
#endif

#define GGML_MAX_DIMS 4
#define GGML_MAX_SRC 10
#define GGML_MAX_OP_PARAMS 64
#define GGML_MAX_NAME 64
#define GGML_MAX_N_THREADS 512
#define GGML_DEFAULT_N_THREADS 4
#define GGML_MEM_ALIGN 16
#define GGML_MAX_PARAMS 2048
#define GGML_DEFAULT_GRAPH_SIZE 2048
#define GGML_FILE_MAGIC 0x67676d6c
#define GGML_FILE_VERSION 2
#define GGML_QNT_VERSION 2
#define GGML_QNT_VERSION_FACTOR 1000
#define GGML_EXIT_SUCCESS 0
#define GGML_EXIT_ABORTED 1
#define GGML_ROPE_TYPE_NORMAL 0
#define GGML_ROPE_TYPE_NEOX 2
#define GGML_ROPE_TYPE_MROPE 8
#define GGML_ROPE_TYPE_VISION 24
#define GGML_ROPE_TYPE_IMROPE 40
#define GGML_MROPE_SECTIONS 4

typedef struct ggml_bf16_t ggml_bf16_t;
struct ggml_tensor;

#ifdef __cplusplus
extern "C" {
#endif

// Prints a message with its place to stderr and aborts the process. `fmt` is printf's; up to three arguments are
// formatted when all are integers or strings, else it is printed as it is.
#ifdef __cplusplus
[[noreturn]]
#else
_Noreturn
#endif
GGML_API void ggml_abort(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

// Names a tensor; a name of more than 63 bytes is cut. `fmt` is printf's; up to four arguments are formatted when all are
// integers or strings, else it becomes the name as it is. Returns the tensor.
GGML_API struct ggml_tensor *ggml_format_name(struct ggml_tensor *tensor, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#ifdef __cplusplus
} // extern "C"
#endif

// Aborts the process with a message.
#define GGML_ABORT(...) ggml_abort(__FILE__, __LINE__, __VA_ARGS__)
// Aborts the process unless `x` is true.
#define GGML_ASSERT(x) if (!(x)) GGML_ABORT("GGML_ASSERT(%s) failed", #x)
