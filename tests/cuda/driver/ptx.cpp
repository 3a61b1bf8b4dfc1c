#include "ptx.h"

#include <cctype>
#include <cstdlib>

namespace emulator {

namespace {

std::string without_comments(const std::string& text) {
    std::string result;
    for (size_t at = 0; at < text.size();) {
        if (text.compare(at, 2, "//") == 0) {
            at = text.find('\n', at);
            if (at == std::string::npos) break;
        } else if (text.compare(at, 2, "/*") == 0) {
            at = text.find("*/", at);
            if (at == std::string::npos) break;
            at += 2;
            result += ' ';
        } else {
            result += text[at++];
        }
    }
    return result;
}

/// Words, and punctuation one character at a time.
std::vector<std::string> tokens(const std::string& text) {
    std::vector<std::string> result;
    auto is_word = [](char c) { return isalnum((unsigned char)c) || c == '_' || c == '.' || c == '$' || c == '%'; };
    for (size_t at = 0; at < text.size();) {
        if (isspace((unsigned char)text[at])) {
            at++;
        } else if (is_word(text[at])) {
            size_t from = at;
            while (at < text.size() && is_word(text[at])) at++;
            result.push_back(text.substr(from, at - from));
        } else {
            result.push_back(std::string(1, text[at++]));
        }
    }
    return result;
}

/// Bytes of `.u64`, `.b8`, `.f32`; 0 where the word is no type.
unsigned bytes_of_type(const std::string& word) {
    if (word.size() < 3 || word[0] != '.' || std::string("usfb").find(word[1]) == std::string::npos) return 0;
    for (size_t at = 2; at < word.size(); at++)
        if (!isdigit((unsigned char)word[at])) return 0;
    return unsigned(atoi(word.c_str() + 2)) / 8;
}

class Reader {
public:
    explicit Reader(const std::string& text) : all(tokens(without_comments(text))) {}
    bool is_end() const { return at >= all.size(); }
    const std::string& look() const {
        static const std::string end;
        return is_end() ? end : all[at];
    }
    std::string take() { return is_end() ? std::string() : all[at++]; }

    /// A declaration behind `.param` or `.shared`: its bytes. Stops at what ends it.
    unsigned declaration() {
        unsigned element = 0, count = 1;
        while (!is_end() && look() != "," && look() != ";" && look() != ")") {
            std::string word = take();
            if (word == ".align") take();
            else if (bytes_of_type(word) && !element) element = bytes_of_type(word);
            else if (word == "[") count *= look() == "]" ? 0 : unsigned(atoi(take().c_str()));
        }
        return element * count;
    }

private:
    std::vector<std::string> all;
    size_t at = 0;
};

/// Behind `.entry`.
PtxEntry entry(Reader& reader) {
    PtxEntry result;
    result.name = reader.take();
    if (reader.look() == "(")
        while (!reader.is_end() && reader.look() != ")")
            if (reader.take() == ".param") result.parameters.push_back(reader.declaration());
    while (!reader.is_end() && reader.look() != "{") {
        if (reader.take() != ".maxntid") continue;
        result.max_threads = 1;
        do result.max_threads *= unsigned(atoi(reader.take().c_str()));
        while (reader.look() == "," && !reader.take().empty());
    }
    unsigned depth = 0;
    do {
        std::string word = reader.take();
        if (word == "{") depth++;
        else if (word == "}") depth--;
        else if (word == ".shared") result.static_shared += reader.declaration();
    } while (depth && !reader.is_end());
    return result;
}

}  // namespace

Ptx parse_ptx(const std::string& text) {
    Ptx result;
    Reader reader(text);
    unsigned shared_by_all = 0;
    while (!reader.is_end()) {
        std::string word = reader.take();
        if (word == ".version") {
            std::string version = reader.take();
            size_t dot = version.find('.');
            result.version = atoi(version.c_str()) * 10 + (dot == std::string::npos ? 0 : atoi(version.c_str() + dot + 1));
        } else if (word == ".target") {
            std::string target = reader.take();
            result.target = target.compare(0, 3, "sm_") == 0 ? atoi(target.c_str() + 3) : 0;
            result.is_for_one_device = isalpha((unsigned char)target.back());
        } else if (word == ".entry") {
            result.entries.push_back(entry(reader));
        } else if (word == ".shared") {
            shared_by_all += reader.declaration();
        }
    }
    for (PtxEntry& each : result.entries) each.static_shared += shared_by_all;
    if (!result.version) result.invalid = "no .version";
    else if (!result.target) result.invalid = "no .target";
    return result;
}

int driver_for_ptx(int version) {
    if (version < 80) return 11000;
    if (version >= 90) return 13000 + version % 10 * 10;
    // 12.6 brought none; 8.6 is of 12.7.
    return 12000 + version % 10 * 10 + (version >= 86 ? 10 : 0);
}

}  // namespace emulator
