// Part of libinfer. Owning pointers to the library's objects, for C++17.

#pragma once

#ifndef __cplusplus
#error "llama-cpp.h is for C++; include llama.h in C"
#endif

#include <memory>

#include "llama.h"

// Calls one of the library's functions when its object goes.
template <auto Free> struct llama_deleter {
    template <typename T> void operator()(T *object) const { Free(object); }
};

using llama_model_deleter = llama_deleter<llama_model_free>;
using llama_context_deleter = llama_deleter<llama_free>;
using llama_sampler_deleter = llama_deleter<llama_sampler_free>;
using llama_adapter_lora_deleter = llama_deleter<llama_adapter_lora_free>;
using llama_batch_ext_deleter = llama_deleter<llama_batch_ext_free>;

using llama_model_ptr = std::unique_ptr<llama_model, llama_model_deleter>;
using llama_context_ptr = std::unique_ptr<llama_context, llama_context_deleter>;
using llama_sampler_ptr = std::unique_ptr<llama_sampler, llama_sampler_deleter>;
using llama_adapter_lora_ptr = std::unique_ptr<llama_adapter_lora, llama_adapter_lora_deleter>;
using llama_batch_ext_ptr = std::unique_ptr<llama_batch_ext, llama_batch_ext_deleter>;
