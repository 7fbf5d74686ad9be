// The headers are C++ too: loads a model's vocabulary as a C++ program would.

#include "llama.h"

#include <cstdio>
#include <memory>

int main(int argc, char ** argv) {
    if (argc != 2) {
        return 1;
    }
    llama_model_params params = llama_model_default_params();
    params.vocab_only         = true;
    const std::unique_ptr<llama_model, decltype(&llama_model_free)> model(llama_model_load_from_file(argv[1], params),
                                                                          llama_model_free);
    if (!model) {
        return 1;
    }
    std::printf("vocabulary of %d tokens\n", llama_vocab_n_tokens(llama_model_get_vocab(model.get())));
    return 0;
}
