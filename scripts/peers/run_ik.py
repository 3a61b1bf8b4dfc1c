"""Times ik_llama.cpp through the interface of its library: prints the tokens in a second by test as JSON."""

import ctypes
import json
import random
import sys
import time

import ik_llama_cpp._ctypes_api as ik

WARMUP = 8


def main():
    path, threads, prompts, generate, repack = sys.argv[1:]
    prompts, generate = list(map(int, prompts.split(","))), int(generate)
    ik.llama_backend_init()
    params = ik.llama_model_default_params()
    params.n_gpu_layers, params.repack_tensors, params.use_mmap = 0, bool(int(repack)), not int(repack)
    model = ik.llama_model_load_from_file(path.encode(), params)
    if not model:
        sys.exit(f"it does not load {path}")
    params = ik.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = max([*prompts, 64]) + generate + WARMUP, 2048, 512
    params.n_threads = params.n_threads_batch = int(threads)
    context = ik.llama_init_from_model(model, params)
    vocabulary = ik.llama_vocab_n_tokens(ik.llama_model_get_vocab(model))
    source = random.Random(1)

    def evaluate(position, count):
        """Seconds for random tokens after what is there."""
        batch = ik.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        for i in range(count):
            batch.token[i], batch.pos[i] = source.randrange(vocabulary), position + i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, i == count - 1
        begin = time.perf_counter()
        if ik.llama_decode(context, batch):
            sys.exit(f"it does not evaluate {count} tokens")
        ik.llama_get_logits_ith(context, count - 1)
        seconds = time.perf_counter() - begin
        ik.llama_batch_free(batch)
        return seconds

    evaluate(0, WARMUP)
    speeds = {}
    for length in prompts:
        ik.llama_kv_cache_clear(context)
        speeds[f"prefill of {length}"] = length / evaluate(0, length)
    ik.llama_kv_cache_clear(context)
    evaluate(0, 64)
    speeds[f"decode of {generate}"] = generate / sum(evaluate(64 + i, 1) for i in range(generate))
    system = ik._lib.llama_print_system_info
    system.restype = ctypes.c_char_p
    print(json.dumps({"speeds": speeds, "system": system().decode().strip(" |")}))


main()
