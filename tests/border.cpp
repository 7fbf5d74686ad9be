// The functions with C++ names as a C++ program sees them, and llama-cpp.h. Built and run by tests/border.rs.

#include <cstdio>
#include <cstdlib>
#include <map>

#include "llama-cpp.h"

struct llama_memory_breakdown_data {
    size_t model = 0;
    size_t context = 0;
    size_t compute = 0;
};

std::map<ggml_backend_buffer_type_t, llama_memory_breakdown_data> llama_get_memory_breakdown(const llama_context *ctx);
int32_t llama_model_n_expert(const llama_model *model);
int32_t llama_model_n_devices(const llama_model *model);
ggml_backend_dev_t llama_model_get_device(const llama_model *model, int i);

#define CHECK(x) \
    if (!(x)) { \
        std::printf("line %d: %s\n", __LINE__, #x); \
        return EXIT_FAILURE; \
    }

int main(int, char **argv) {
    llama_model_ptr model(llama_model_load_from_file(argv[1], llama_model_default_params()));
    CHECK(model);
    llama_context_params params = llama_context_default_params();
    llama_context_ptr ctx(llama_init_from_model(model.get(), params));
    CHECK(ctx);
    for (int i = 0; i < 3; ++i) {
        const auto breakdown = llama_get_memory_breakdown(ctx.get());
        CHECK(breakdown.size() == 1);
        CHECK(breakdown.begin()->first == ggml_backend_cpu_buffer_type());
        CHECK(breakdown.at(ggml_backend_cpu_buffer_type()).model == llama_model_size(model.get()));
        CHECK(breakdown.at(ggml_backend_cpu_buffer_type()).context > 0);
    }
    auto nothing = llama_get_memory_breakdown(nullptr);
    CHECK(nothing.empty() && nothing.begin() == nothing.end());
    nothing[nullptr].model = 1;
    CHECK(nothing.size() == 1);
    CHECK(llama_model_n_expert(model.get()) == 0 && llama_model_n_devices(model.get()) == 0);
    CHECK(llama_model_get_device(model.get(), 0) == nullptr);
    llama_batch_ext_ptr batch(llama_batch_ext_init(ctx.get()));
    llama_sampler_ptr sampler(llama_sampler_init_greedy());
    CHECK(batch && sampler);
    return EXIT_SUCCESS;
}
