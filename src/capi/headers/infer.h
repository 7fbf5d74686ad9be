#ifndef LLAMA_API
#define LLAMA_API __attribute__((visibility("default")))
#endif
