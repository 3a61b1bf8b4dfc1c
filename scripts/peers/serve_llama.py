"""Serves a GGUF file with the llama.cpp in the package xllamacpp: prints its address, ends with its standard input."""

import sys

import xllamacpp

model, threads, context = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path = model
params.port = 0
params.n_ctx = int(context)
params.n_parallel = 1
params.n_gpu_layers = 0
params.cpuparams.n_threads = int(threads)
params.cpuparams_batch.n_threads = int(threads)
server = xllamacpp.Server(params)
print(server.listening_address, xllamacpp.get_system_info().strip(" |"), sep="\t", flush=True)
sys.stdin.read()
