"""What users do with llama-cpp-python's high-level interface. Run by bindings.py once for each library, in its own process;
prints one line of JSON for each scenario: its name, whether it did what it should, and what it gave.

    python_scenarios.py MODEL
"""

import json
import sys
import traceback

import llama_cpp
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

PROMPT = "The capital of France is"
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Name the capital of France in one sentence."},
]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome", "Madrid"]}, "large": {"type": "boolean"},
                   "inhabitants": {"type": "integer"}},
    "required": ["city", "large", "inhabitants"],
}


def load(model, **options):
    return llama_cpp.Llama(model, n_ctx=1024, n_threads=2, n_threads_batch=2, verbose=False, seed=1, **options)


def text_of(answer):
    return answer["choices"][0]["text"]


def completion(model):
    llm = load(model)
    answer = llm.create_completion(PROMPT, max_tokens=32, temperature=0)
    assert answer["usage"]["completion_tokens"] > 8
    return text_of(answer)


def streaming_completion(model):
    llm = load(model)
    whole = text_of(llm.create_completion(PROMPT, max_tokens=32, temperature=0))
    chunks = [text_of(chunk) for chunk in llm.create_completion(PROMPT, max_tokens=32, temperature=0, stream=True)]
    assert len(chunks) > 16 and "".join(chunks) == whole, (chunks, whole)
    return whole


def chat(model):
    answer = load(model).create_chat_completion(MESSAGES, max_tokens=48, temperature=0)
    text = answer["choices"][0]["message"]["content"]
    assert "Paris" in text, text
    return text


def streaming_chat(model):
    deltas = [chunk["choices"][0]["delta"] for chunk in
              load(model).create_chat_completion(MESSAGES, max_tokens=48, temperature=0, stream=True)]
    text = "".join(delta.get("content") or "" for delta in deltas)
    assert "Paris" in text, text
    return text


def json_schema(model):
    answer = load(model).create_chat_completion(
        MESSAGES, max_tokens=128, temperature=0, response_format={"type": "json_object", "schema": SCHEMA})
    text = answer["choices"][0]["message"]["content"]
    value = json.loads(text)
    assert set(value) == set(SCHEMA["properties"]) and value["city"] == "Paris" and isinstance(value["inhabitants"], int), text
    return text


def gbnf_grammar(model):
    grammar = llama_cpp.LlamaGrammar.from_string('root ::= ("yes" | "no") "\\n"', verbose=False)
    text = text_of(load(model).create_completion("Is Paris in France? ", max_tokens=8, temperature=0, grammar=grammar))
    assert text in ("yes\n", "no\n"), text
    return text


def samplers(model):
    """Every sampler that the interface offers, with a fixed seed."""
    llm = load(model)
    texts = []
    for options in ({"top_k": 20, "top_p": 0.9}, {"min_p": 0.1, "typical_p": 0.9}, {"mirostat_mode": 1}, {"mirostat_mode": 2},
                    {"repeat_penalty": 1.3, "frequency_penalty": 0.1, "presence_penalty": 0.1}, {"logit_bias": {"28": -100.0}}):
        texts.append(text_of(llm.create_completion(PROMPT, max_tokens=12, temperature=0.7, seed=42, **options)))
    return texts


def log_probabilities(model):
    llm = load(model, logits_all=True)
    answer = llm.create_completion(PROMPT, max_tokens=4, temperature=0, logprobs=3)
    tops = answer["choices"][0]["logprobs"]["top_logprobs"]
    assert len(tops) == 4 and all(len(top) >= 3 for top in tops), tops
    return [sorted(top) for top in tops]


def embeddings(model):
    llm = load(model, embedding=True, pooling_type=llama_cpp.LLAMA_POOLING_TYPE_MEAN)
    answer = llm.create_embedding(["hello world", "The capital of France"])
    return [row["embedding"] for row in answer["data"]]


def state(model):
    llm = load(model)
    *first_tokens, last_token = llm.tokenize(PROMPT.encode())
    llm.eval(first_tokens)
    saved = llm.save_state()

    def continue_greedily():
        llm.eval([last_token])
        tokens = []
        for _ in range(16):
            token = llm.sample(temp=0.0)
            tokens.append(token)
            llm.eval([token])
        return llm.detokenize(tokens).decode()

    first = continue_greedily()
    llm.reset()
    llm.eval(llm.tokenize(b"Something else entirely, which the context must forget."))
    llm.load_state(saved)
    again = continue_greedily()
    assert first == again, (first, again)
    return first


def ram_cache(model):
    llm = load(model)
    llm.set_cache(llama_cpp.LlamaRAMCache(capacity_bytes=1 << 28))
    texts = [text_of(llm.create_completion(PROMPT, max_tokens=12, temperature=0)) for _ in range(2)]
    assert texts[0] == texts[1], texts
    return texts[0]


def prompt_lookup(model):
    prompt = "one two three four one two three four one two three four one two"
    plain = text_of(load(model).create_completion(prompt, max_tokens=24, temperature=0))
    speculative = load(model, draft_model=LlamaPromptLookupDecoding(num_pred_tokens=6))
    text = text_of(speculative.create_completion(prompt, max_tokens=24, temperature=0))
    assert text == plain, (text, plain)
    return text


def fill_in(model):
    """A model without fill-in-the-middle tokens refuses a suffix."""
    try:
        text_of(load(model).create_completion(PROMPT, suffix=" is big.", max_tokens=4, temperature=0))
    except ValueError as e:
        return str(e)
    return "accepted"


def bad_model(model):
    try:
        load(model + ".missing")
    except ValueError as e:
        assert "does not exist" in str(e)
    try:
        load(__file__)
    except ValueError:
        return "refused"
    raise AssertionError("a Python file was loaded as a model")


SCENARIOS = [completion, streaming_completion, chat, streaming_chat, json_schema, gbnf_grammar, samplers, log_probabilities,
             embeddings, state, ram_cache, prompt_lookup, fill_in, bad_model]


def main(model):
    for scenario in SCENARIOS:
        try:
            line = {"name": scenario.__name__, "passed": True, "result": scenario(model)}
        except Exception as e:  # whatever fails is this scenario's result
            traceback.print_exc()
            line = {"name": scenario.__name__, "passed": False, "result": repr(e)[:300]}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
