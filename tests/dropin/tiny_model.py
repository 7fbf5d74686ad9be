"""Makes a small model with random weights out of one of llama.cpp's vocabulary files, whose metadata it keeps: it answers
nonsense, but with the tokenizer, the architecture and the kind of embeddings that a test asks for.

    tiny_model.py VOCABULARY.gguf NEW.gguf      needs numpy on PYTHONPATH
"""

import struct
import sys

import numpy

N_EMBD, N_FF, N_HEAD, N_LAYER, N_CTX = 64, 128, 4, 2, 512
ALIGNMENT = 32
U32, STRING, ARRAY = 4, 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


class Header:
    """The metadata of a GGUF file without tensors: its bytes, and where each value is in them."""

    def __init__(self, data):
        self.data = bytearray(data)
        magic, self.version, _, self.n_kv = struct.unpack_from("<4sIQQ", data, 0)
        if magic != b"GGUF":
            sys.exit("tiny_model.py: not a GGUF file")
        self.values = {}
        at = 24
        for _ in range(self.n_kv):
            key, at = self.string(at)
            (kind,) = struct.unpack_from("<I", data, at)
            self.values[key] = (kind, at + 4)
            at = self.skip(kind, at + 4)
        self.end = at

    def string(self, at):
        (length,) = struct.unpack_from("<Q", self.data, at)
        return bytes(self.data[at + 8 : at + 8 + length]).decode(), at + 8 + length

    def skip(self, kind, at):
        if kind == STRING:
            return self.string(at)[1]
        if kind != ARRAY:
            return at + SIZES[kind]
        kind, count = struct.unpack_from("<IQ", self.data, at)
        at += 12
        if kind in SIZES:
            return at + count * SIZES[kind]
        for _ in range(count):
            at = self.skip(kind, at)
        return at

    def get_string(self, key):
        return self.string(self.values[key][1])[0]

    def array_length(self, key):
        return struct.unpack_from("<Q", self.data, self.values[key][1] + 4)[0]

    def set_u32(self, key, value):
        """Changes a value, or appends it."""
        if key in self.values:
            struct.pack_into("<I", self.data, self.values[key][1], value)
            return
        name = key.encode()
        added = struct.pack("<Q", len(name)) + name + struct.pack("<II", U32, value)
        self.data[self.end : self.end] = added
        self.end += len(added)
        self.n_kv += 1


def tensors(arch, n_vocab):
    """Names and shapes, the innermost dimension first."""
    yield "token_embd.weight", [N_EMBD, n_vocab]
    bert = arch == "bert"
    if bert:
        yield "position_embd.weight", [N_EMBD, N_CTX]
        yield "token_types.weight", [N_EMBD, 2]
        yield from ((f"token_embd_norm.{part}", [N_EMBD]) for part in ("weight", "bias"))
    else:
        yield "output_norm.weight", [N_EMBD]
        yield "output.weight", [N_EMBD, n_vocab]
    for layer in range(N_LAYER):
        for name, n_in, n_out in (("attn_q", N_EMBD, N_EMBD), ("attn_k", N_EMBD, N_EMBD), ("attn_v", N_EMBD, N_EMBD),
                                  ("attn_output", N_EMBD, N_EMBD), ("ffn_up", N_EMBD, N_FF), ("ffn_down", N_FF, N_EMBD)):
            yield f"blk.{layer}.{name}.weight", [n_in, n_out]
            if bert or name in ("attn_q", "attn_k", "attn_v"):
                yield f"blk.{layer}.{name}.bias", [n_out]
        if bert:
            for name in ("attn_output_norm", "layer_output_norm"):
                yield from ((f"blk.{layer}.{name}.{part}", [N_EMBD]) for part in ("weight", "bias"))
        else:
            yield f"blk.{layer}.ffn_gate.weight", [N_EMBD, N_FF]
            yield from ((f"blk.{layer}.{name}.weight", [N_EMBD]) for name in ("attn_norm", "ffn_norm"))


def main(vocabulary, new):
    with open(vocabulary, "rb") as file:
        header = Header(file.read())
    arch = header.get_string("general.architecture")
    if arch not in ("bert", "qwen2"):
        sys.exit(f"tiny_model.py: {vocabulary} is for {arch}; bert and qwen2 are known")
    for key, value in {"block_count": N_LAYER, "context_length": N_CTX, "embedding_length": N_EMBD, "feed_forward_length": N_FF,
                       "attention.head_count": N_HEAD}.items():
        header.set_u32(f"{arch}.{key}", value)
    header.set_u32("bert.pooling_type" if arch == "bert" else "qwen2.attention.head_count_kv", 2 if arch == "bert" else N_HEAD)

    rng = numpy.random.default_rng(1)
    infos, data, count = b"", bytearray(), 0
    for name, shape in tensors(arch, header.array_length("tokenizer.ggml.tokens")):
        values = rng.standard_normal(shape[::-1], dtype=numpy.float32) * 0.1
        values = values + 1 if "norm.weight" in name else values
        infos += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape))
        infos += b"".join(struct.pack("<Q", n) for n in shape) + struct.pack("<IQ", 0, len(data))
        data += values.tobytes()
        data += bytes(-len(data) % ALIGNMENT)
        count += 1
    struct.pack_into("<QQ", header.data, 8, count, header.n_kv)
    head = bytes(header.data[: header.end]) + infos
    with open(new, "wb") as file:
        file.write(head + bytes(-len(head) % ALIGNMENT) + data)


if __name__ == "__main__":
    main(*sys.argv[1:])
