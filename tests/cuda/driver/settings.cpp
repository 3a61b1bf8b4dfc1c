#include "settings.h"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <sstream>

namespace emulator {

namespace {

struct Invalid {
    std::string why;
};

const char* const PREFIX = "EMULATED_CUDA_";

std::vector<std::string> split(const std::string& text, char separator) {
    std::vector<std::string> parts;
    std::stringstream stream(text);
    for (std::string part; std::getline(stream, part, separator);)
        if (!part.empty()) parts.push_back(part);
    return parts;
}

u64 number(const std::string& text) {
    size_t used = 0;
    u64 value = 0;
    try {
        value = std::stoull(text, &used);
    } catch (const std::exception&) {
    }
    if (!used || used != text.size() || text[0] == '-') throw Invalid{"'" + text + "' is not a whole number"};
    return value;
}

/// A number of bytes, with KiB, MiB or GiB behind it or nothing.
u64 bytes(const std::string& text) {
    static const std::pair<const char*, int> units[] = {{"KiB", 10}, {"MiB", 20}, {"GiB", 30}};
    for (auto [unit, shift] : units)
        if (text.size() > 3 && text.compare(text.size() - 3, 3, unit) == 0)
            return number(text.substr(0, text.size() - 3)) << shift;
    return number(text);
}

bool flag(const std::string& text) {
    if (text != "0" && text != "1") throw Invalid{"'" + text + "' is neither 0 nor 1"};
    return text == "1";
}

/// The two sides of the last separator.
std::pair<std::string, std::string> sides(const std::string& text, char separator) {
    size_t at = text.rfind(separator);
    if (at == std::string::npos) throw Invalid{"'" + text + "' has no '" + separator + "'"};
    return {text.substr(0, at), text.substr(at + 1)};
}

/// `cuMemAlloc_v2#3=2`: the third call fails with code 2; `#3+` and all after it; `kernel:NAME#1=719`: an execution.
Fault fault(const std::string& text) {
    Fault result;
    auto [place, code] = sides(text, '=');
    auto [name, first] = sides(place, '#');
    result.code = int(number(code));
    if (!first.empty() && first.back() == '+') {
        result.is_lasting = true;
        first.pop_back();
    }
    result.first = number(first);
    static const std::string kernel = "kernel:";
    result.is_kernel = name.compare(0, kernel.size(), kernel) == 0;
    result.name = result.is_kernel ? name.substr(kernel.size()) : name;
    return result;
}

/// `512MiB@cuMemGetInfo_v2#2`; with a minus before it the memory is given back.
Neighbour neighbour(const std::string& text) {
    Neighbour result;
    auto [amount, place] = sides(text, '@');
    auto [function, call] = sides(place, '#');
    bool is_given_back = !amount.empty() && amount[0] == '-';
    result.bytes = (long long)bytes(is_given_back ? amount.substr(1) : amount) * (is_given_back ? -1 : 1);
    result.function = function;
    result.call = number(call);
    return result;
}

/// `8.6`.
int capability(const std::string& text) {
    auto [major, minor] = sides(text, '.');
    return int(number(major) * 10 + number(minor));
}

template <class T>
std::vector<T> list(const std::string& text, char separator, T (*parse)(const std::string&)) {
    std::vector<T> result;
    for (const std::string& part : split(text, separator)) result.push_back(parse(part));
    return result;
}

void set_order(Settings& s, const std::string& text) {
    if (text == "forward") s.order = Order::FORWARD;
    else if (text == "backward") s.order = Order::BACKWARD;
    else {
        s.order = Order::SEEDED;
        s.seed = number(text);
    }
}

using Setter = std::function<void(Settings&, const std::string&)>;

const std::map<std::string, Setter>& setters() {
    static const std::map<std::string, Setter> all = {
        {"DRIVER", [](Settings& s, const std::string& text) { s.driver = int(number(text)); }},
        {"DEVICES", [](Settings& s, const std::string& text) { s.devices = int(number(text)); }},
        {"CAPABILITY", [](Settings& s, const std::string& text) { s.capability = capability(text); }},
        {"NAME", [](Settings& s, const std::string& text) { s.name = text; }},
        {"MEMORY", [](Settings& s, const std::string& text) { s.memory = bytes(text); }},
        {"TAKEN", [](Settings& s, const std::string& text) { s.taken = bytes(text); }},
        {"CONTEXT", [](Settings& s, const std::string& text) { s.context = bytes(text); }},
        {"NEIGHBOURS", [](Settings& s, const std::string& text) { s.neighbours = list(text, ',', neighbour); }},
        {"PAGE_LOCK", [](Settings& s, const std::string& text) { s.page_lock = bytes(text); }},
        {"POISON", [](Settings& s, const std::string& text) { s.is_poisoned = flag(text); }},
        {"ORDER", set_order},
        {"LATE_US", [](Settings& s, const std::string& text) { s.late_us = u32(number(text)); }},
        {"LATE_STREAM", [](Settings& s, const std::string& text) { s.late_stream = u32(number(text)); }},
        {"TRACE", [](Settings& s, const std::string& text) { s.trace = text; }},
        {"FAULTS", [](Settings& s, const std::string& text) { s.faults = list(text, ',', fault); }},
        {"KERNELS", [](Settings& s, const std::string& text) { s.kernels = split(text, ':'); }},
    };
    return all;
}

Settings* read() {
    auto* result = new Settings;
    for (const auto& [name, set] : setters()) {
        std::string variable = PREFIX + name;
        const char* value = getenv(variable.c_str());
        if (!value) continue;
        try {
            set(*result, value);
        } catch (const Invalid& invalid) {
            fprintf(stderr, "emulated CUDA: invalid %s: %s\n", variable.c_str(), invalid.why.c_str());
            abort();
        }
    }
    return result;
}

}  // namespace

Settings& settings() {
    static Settings& result = *read();
    return result;
}

std::string change_setting(const std::string& name, const std::string& value) {
    auto setter = setters().find(name);
    if (setter == setters().end()) return "no setting " + name;
    try {
        setter->second(settings(), value);
    } catch (const Invalid& invalid) {
        return invalid.why;
    }
    return "";
}

}  // namespace emulator
