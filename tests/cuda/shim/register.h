// Registers kernels by their type, from which the parameters' sizes come.
#pragma once

#include <type_traits>
#include <utility>

#include "runtime.h"

template <auto Kernel>
struct EmuRegistration;

template <class... Parameter, void (*Kernel)(Parameter...)>
struct EmuRegistration<Kernel> {
    EmuRegistration(const char* name, const char* source) {
        // One more than there are, since an array has at least one.
        static const EmuParameter parameters[] = {{unsigned(sizeof(Parameter)), std::is_pointer_v<Parameter>}..., {0, false}};
        static const EmuKernel kernel = {name, invoke, parameters, sizeof...(Parameter), source};
        emu_register(&kernel);
    }

    static void invoke(void* const* parameters) { call(parameters, std::index_sequence_for<Parameter...>()); }

    template <size_t... Index>
    static void call(void* const* parameters, std::index_sequence<Index...>) {
        Kernel(*static_cast<std::remove_cv_t<Parameter>*>(parameters[Index])...);
    }
};

#define EMU_REGISTER(kernel, source) static const EmuRegistration<&kernel> emu_registration_##kernel(#kernel, source);
