#include "module.h"

#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>

#include "settings.h"

namespace emulator {

namespace {

std::map<std::string, const EmuKernel*>& kernels() {
    static auto& all = *new std::map<std::string, const EmuKernel*>;
    return all;
}

template <class List, class Show>
std::string joined(const List& list, Show show) {
    std::string text;
    for (const auto& each : list) text += (text.empty() ? "" : ", ") + show(each);
    return text.empty() ? "none" : text;
}

/// What differs between a kernel in PTX and the one that was compiled, or nothing.
std::string difference(const PtxEntry& entry, const EmuKernel& kernel) {
    std::vector<unsigned> compiled;
    for (unsigned at = 0; at < kernel.parameter_count; at++) compiled.push_back(kernel.parameters[at].bytes);
    if (compiled == entry.parameters) return "";
    auto show = [](unsigned bytes) { return std::to_string(bytes); };
    return "its parameters in PTX have " + joined(entry.parameters, show) + " bytes, those in " + kernel.source + " " +
           joined(compiled, show) + ": make the PTX again";
}

}  // namespace

unsigned shared_bytes_max() {
    switch (settings().capability) {
        case 80: case 87: return 163 << 10;
        case 90: case 100: case 103: return 227 << 10;
        default: return settings().capability < 80 ? 64 << 10 : 99 << 10;
    }
}

CUresult load_module(Module*& module, const char* text, std::string& why) {
    Ptx ptx = parse_ptx(text);
    if (!ptx.invalid.empty()) {
        why = "this is not PTX: " + ptx.invalid;
        return CUDA_ERROR_INVALID_PTX;
    }
    if (driver_for_ptx(ptx.version) > settings().driver) {
        why = "PTX .version " + std::to_string(ptx.version / 10) + "." + std::to_string(ptx.version % 10) +
              " needs driver " + std::to_string(driver_for_ptx(ptx.version));
        return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    }
    int capability = settings().capability;
    if (ptx.is_for_one_device ? ptx.target != capability : ptx.target > capability) {
        why = "PTX .target sm_" + std::to_string(ptx.target) + " on a device of capability " + std::to_string(capability);
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    }
    auto made = new Module;
    for (const PtxEntry& entry : ptx.entries) {
        auto kernel = kernels().find(entry.name);
        why = kernel == kernels().end() ? "none of the loaded libraries has it" : difference(entry, *kernel->second);
        if (why.empty() && entry.static_shared > SHARED_BYTES)
            why = "it has " + std::to_string(entry.static_shared) + " bytes of static shared memory, 49152 is the most";
        if (!why.empty()) {
            why = "kernel " + entry.name + ": " + why;
            delete made;
            return CUDA_ERROR_INVALID_IMAGE;
        }
        made->functions[entry.name] =
            new Function{kernel->second, entry.static_shared, entry.max_threads, SHARED_BYTES - entry.static_shared};
    }
    module = made;
    return CUDA_SUCCESS;
}

void load_kernels() {
    static const bool done = [] {
        for (const std::string& path : settings().kernels) {
            // Each keeps its names to itself; what they call is in this library.
            if (dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) continue;
            fprintf(stderr, "emulated CUDA: kernels cannot be loaded: %s\n", dlerror());
            abort();
        }
        return true;
    }();
    (void)done;
}

void register_kernel(const EmuKernel* kernel) {
    auto [other, is_new] = kernels().emplace(kernel->name, kernel);
    if (is_new) return;
    fprintf(stderr, "emulated CUDA: kernel %s is in %s and in %s\n", kernel->name, other->second->source, kernel->source);
    abort();
}

}  // namespace emulator

EMULATOR_API void emu_register(const EmuKernel* kernel) { emulator::register_kernel(kernel); }
