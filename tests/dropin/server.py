"""llama-server, built against llama.cpp, on both libraries: what its clients do over HTTP."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import threading
import time

import programs

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "inhabitants": {"type": "integer"}},
    "required": ["city", "inhabitants"],
}
GREEDY = {"temperature": 0, "seed": 1, "cache_prompt": False}


class Server:
    """A running llama-server."""

    def __init__(self, port, process):
        self.port = port
        self.process = process

    def request(self, method, path, body=None, timeout=120):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        return connection, connection.getresponse()

    def json(self, method, path, body=None):
        connection, response = self.request(method, path, body)
        with contextlib.closing(connection):
            data = response.read()
        if response.status != 200:
            raise AssertionError(f"{path}: {response.status} {data[:200]!r}")
        return json.loads(data)

    def text(self, path):
        connection, response = self.request("GET", path)
        with contextlib.closing(connection):
            return response.read().decode()

    def events(self, path, body):
        """The events of a stream, one by one."""
        connection, response = self.request("POST", path, body)
        with contextlib.closing(connection):
            for line in response:
                if line.startswith(b"data: ") and b"[DONE]" not in line:
                    yield json.loads(line[6:])


@contextlib.contextmanager
def running(setup, library, log, *options):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(setup.bin / "llama-server"), "-m", str(setup.f32), "--host", "127.0.0.1", "--port", str(port), "-t", "2",
               "-c", "2048", "-fit", "off", *options]
    with open(log, "w") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                   env=setup.environment(library), cwd=setup.work)
        try:
            server = Server(port, process)
            for _ in range(600):
                if process.poll() is not None:
                    raise AssertionError(f"llama-server ends with {process.returncode} at its start; see {log}")
                with contextlib.suppress(OSError, AssertionError):
                    if server.json("GET", "/health")["status"] == "ok":
                        break
                time.sleep(0.1)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def content(answer):
    return answer["choices"][0]["message"]["content"]


def chat(server):
    text = content(server.json("POST", "/v1/chat/completions", GREEDY | {"messages": MESSAGES, "max_tokens": 48}))
    assert "Paris" in text, text
    return text


def streaming(server):
    body = GREEDY | {"messages": MESSAGES, "max_tokens": 48, "stream": True}
    pieces = [event["choices"][0]["delta"].get("content") or "" for event in server.events("/v1/chat/completions", body)
              if event["choices"]]
    assert len(pieces) > 4, pieces
    return "".join(pieces)


def json_schema(server):
    body = GREEDY | {"messages": MESSAGES, "max_tokens": 96,
                     "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}}
    text = content(server.json("POST", "/v1/chat/completions", body))
    value = json.loads(text, strict=False)
    assert set(value) == set(SCHEMA["properties"]), text
    return text


def tool_call(server):
    tool = {"type": "function", "function": {"name": "weather", "description": "Weather of a city", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
    body = GREEDY | {"messages": [{"role": "user", "content": "What is the weather in Paris?"}], "max_tokens": 200, "tools": [tool],
                     "tool_choice": "required"}
    # The model is small: whether it fills the call in before its tokens end is the same on both libraries.
    message = server.json("POST", "/v1/chat/completions", body)["choices"][0]["message"]
    return [message.get("content"), [call["function"] for call in message.get("tool_calls", [])]]


def completion_with_probabilities(server):
    answer = server.json("POST", "/completion", GREEDY | {"prompt": "The capital of France is", "n_predict": 12, "n_probs": 3})
    tops = [[top["id"] for top in token["top_logprobs"]] for token in answer["completion_probabilities"]]
    return [answer["content"], tops]


def parallel_slots(server):
    """Four requests at once give what they give one after the other."""
    prompts = ["The capital of France is", "The largest planet is", "One two three", "Water boils at"]
    body = lambda prompt: GREEDY | {"prompt": prompt, "n_predict": 24}
    texts = [None] * len(prompts)

    def ask(i):
        texts[i] = server.json("POST", "/completion", body(prompts[i]))["content"]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = [server.json("POST", "/completion", body(prompt))["content"] for prompt in prompts]
    assert texts == alone, (texts, alone)
    return texts


def cancel(server):
    """A client that goes away frees its slot."""
    events = server.events("/completion", GREEDY | {"prompt": "Once upon a time", "n_predict": 1000, "ignore_eos": True,
                                                    "stream": True})
    for _, _ in zip(range(3), events):
        pass
    events.close()
    for _ in range(200):
        if not any(slot["is_processing"] for slot in server.json("GET", "/slots")):
            return "the slot is free again"
        time.sleep(0.1)
    raise AssertionError("the slot still works after 20 s")


def prompt_cache(server):
    """The second of two equal prompts finds the first in the cache."""
    body = GREEDY | {"prompt": "The quick brown fox jumps over the lazy dog and", "n_predict": 8, "cache_prompt": True, "id_slot": 0}
    first, second = (server.json("POST", "/completion", body) for _ in range(2))
    assert second["timings"]["prompt_n"] < first["timings"]["prompt_n"], second["timings"]
    assert first["content"] == second["content"]
    return first["content"]


def slot_save(server):
    """A slot is saved to a file, erased, and restored."""
    body = GREEDY | {"prompt": "The seven wonders of the world are", "n_predict": 8, "cache_prompt": True, "id_slot": 1}
    first = server.json("POST", "/completion", body)["content"]
    saved = server.json("POST", "/slots/1?action=save", {"filename": "slot.bin"})
    server.json("POST", "/slots/1?action=erase", {})
    restored = server.json("POST", "/slots/1?action=restore", {"filename": "slot.bin"})
    assert saved["n_saved"] == restored["n_restored"] > 8, (saved, restored)
    again = server.json("POST", "/completion", body)
    assert again["content"] == first and again["timings"]["prompt_n"] == 1, again["timings"]
    return first


def tokenize(server):
    tokens = server.json("POST", "/tokenize", {"content": "Hello world 😀", "add_special": True})["tokens"]
    text = server.json("POST", "/detokenize", {"tokens": tokens})["content"]
    assert text == "Hello world 😀", text
    return tokens


def metrics(server):
    text = server.text("/metrics")
    wanted = ("llamacpp:prompt_tokens_total", "llamacpp:tokens_predicted_total", "llamacpp:requests_processing")
    assert all(name in text for name in wanted), text
    return sorted(line.split()[0] for line in text.splitlines() if line.startswith("llamacpp:"))


def bad_requests(server):
    """Wrong requests are answered and the server goes on."""
    codes = []
    for path, body in (("/completion", {"prompt": [10**9]}), ("/completion", {"prompt": "x", "grammar": "root ::= ("}),
                       ("/v1/chat/completions", {"messages": "none"}), ("/completion", {"prompt": "word " * 5000, "n_predict": 1})):
        connection, response = server.request("POST", path, body)
        with contextlib.closing(connection):
            response.read()
        codes.append(response.status)
    assert all(400 <= code < 600 for code in codes), codes
    assert server.json("GET", "/health")["status"] == "ok"
    return codes


def embeddings(server):
    answer = server.json("POST", "/v1/embeddings", {"input": ["hello world", "The capital of France"]})
    return [row["embedding"] for row in answer["data"]]


def same(theirs, ours):
    """Equal; embeddings when they point the same way, as for llama-embedding."""
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        if len(theirs) > 8 and all(isinstance(x, float) for x in theirs + ours):
            return programs.cosine(theirs, ours) > 0.9999
        return all(map(same, theirs, ours))
    return theirs == ours


GENERATION = [chat, streaming, json_schema, tool_call, completion_with_probabilities, parallel_slots, cancel, prompt_cache, slot_save,
              tokenize, metrics, bad_requests]


def collect(setup, library, who, wanted):
    """Each scenario's (passed, result) on one library."""
    results = {}
    groups = [(GENERATION, ["-np", "4", "--metrics", "--slots", "--slot-save-path", str(setup.work) + "/", "--jinja"]),
              ([embeddings], ["--embeddings", "--pooling", "mean"])]
    for scenarios, options in groups:
        scenarios = [scenario for scenario in scenarios if wanted in scenario.__name__]
        if not scenarios:
            continue
        try:
            with running(setup, library, setup.work / f"server-{who}.log", *options) as server:
                for scenario in scenarios:
                    try:
                        results[scenario.__name__] = (True, scenario(server))
                    except (AssertionError, KeyError, ValueError, OSError, http.client.HTTPException) as e:
                        results[scenario.__name__] = (False, repr(e)[:300])
                if server.process.poll() is not None:
                    raise AssertionError(f"llama-server ended with {server.process.returncode}")
        except AssertionError as e:
            for scenario in scenarios:
                results.setdefault(scenario.__name__, (False, str(e)))
    return results


def scenarios(setup, wanted):
    """Each scenario: (name, passed, note)."""
    if not os.access(setup.bin / "llama-server", os.X_OK):
        yield "llama-server", False, "not built: make reference-programs"
        return
    theirs, ours = (collect(setup, library, who, wanted) for who, library in (("llama.cpp", setup.bin), ("libinfer", setup.compat)))
    for name, (passed, result) in ours.items():
        other = theirs[name]
        if not passed:
            yield name, False, f"{result}; llama.cpp: {str(other[1])[:80]}"
        else:
            equal = same(other[1], result)
            yield name, equal, "same result" if equal else f"llama.cpp {str(other[1])[:100]}, libinfer {str(result)[:100]}"
