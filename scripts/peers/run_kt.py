"""Times kt-kernel on the routed experts of all layers of a GGUF file: prints the tokens in a second by test as JSON.

Without a number of threads it only says whether it reads the file. Each token visits other experts, evenly spread.
"""

import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy
from gguf import GGUFReader

PARTS = ("gate", "up", "down")


def extension():
    """The library for this processor, and its name: the package around it would import PyTorch."""
    folder = next(Path(path) for path in sys.path if (Path(path) / "kt_kernel").is_dir()) / "kt_kernel"
    spec = importlib.util.spec_from_file_location("cpu_detect", folder / "_cpu_detect.py")
    detect = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(detect)
    return detect.initialize()


def main():
    path, *tests = sys.argv[1:]
    kt, variant = extension()
    reader = GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    layers = [layer for layer in range(len(tensors)) if f"blk.{layer}.ffn_gate_exps.weight" in tensors]
    if not layers:
        sys.exit("the model has no experts in stacks")
    experts = [{part: tensors[f"blk.{layer}.ffn_{part}_exps.weight"] for part in PARTS} for layer in layers]
    for tensor in (tensor for layer in experts for tensor in layer.values()):
        if tensor.tensor_type.name not in kt.kvcache.ggml_type.__members__:
            sys.exit(f"it does not read {tensor.tensor_type.name}")
    architecture = reader.get_field("general.architecture").contents()
    used = reader.get_field(f"{architecture}.expert_used_count").contents()
    if tests:
        threads, prompts, generate = tests
        prompts, generate = list(map(int, prompts.split(","))), int(generate)
        speeds = measured(kt, experts, used, int(threads), prompts, generate)
        print(json.dumps({"speeds": speeds, "system": f"routed experts alone, {variant}"}))


def measured(kt, experts, used, threads, prompts, generate):
    pool = kt.WorkerPoolConfig()
    pool.subpool_count, pool.subpool_numa_map, pool.subpool_thread_count = 1, [0], [threads]
    cpu = kt.CPUInfer(pool)
    hidden, width, count = map(int, experts[0]["gate"].shape)
    on_gpu, identity = numpy.zeros(count, numpy.uint8), numpy.arange(count, dtype=numpy.int64)

    def layer(number, tensors):
        config = kt.moe.MOEConfig(count, used, hidden, width, on_gpu.ctypes.data)
        config.layer_idx, config.pool, config.hidden_type = number, cpu.backend_, kt.kvcache.ggml_type.BF16
        # As its own layer in Python says.
        config.m_block, config.group_min_len = 32, 10
        config.max_len = config.group_max_len = max(prompts)
        for part, tensor in tensors.items():
            setattr(config, f"{part}_proj", tensor.data.ctypes.data)
            setattr(config, f"{part}_type", kt.kvcache.ggml_type.__members__[tensor.tensor_type.name])
        moe = kt.moe.MOE(config)
        cpu.submit(moe.load_weights_task(identity.ctypes.data))
        cpu.sync()
        return moe

    layers = [layer(number, tensors) for number, tensors in enumerate(experts)]
    source = numpy.random.default_rng(1)

    def evaluate(tokens):
        """Seconds for tokens that go through all layers."""
        seconds = 0
        for moe in layers:
            ids = numpy.stack([source.choice(count, used, replace=False) for _ in range(tokens)]).astype(numpy.int64)
            weights = numpy.full((tokens, used), 1 / used, numpy.float32)
            x = (source.standard_normal((tokens, hidden), numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16)
            out, length = numpy.zeros_like(x), numpy.array([tokens], numpy.int32)
            buffers = [array.ctypes.data for array in (ids, weights, x, out)]
            begin = time.perf_counter()
            cpu.submit(moe.forward_task(length.ctypes.data, used, *buffers, False))
            cpu.sync()
            seconds += time.perf_counter() - begin
            if not out.any():
                sys.exit("it computes nothing")
        return seconds

    # Reads all weights from the disk.
    evaluate(max(prompts))
    found = {f"prefill of {tokens}": tokens / evaluate(tokens) for tokens in prompts}
    found[f"decode of {generate}"] = generate / sum(evaluate(1) for _ in range(generate))
    return found


main()
