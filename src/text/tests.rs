//! One text for each family of languages.

use super::language::LANGUAGES;
use super::lexer::string_end;
use super::*;
use crate::base::random::Mmix;

/// `text` with all but code and prose replaced: comments by `~`, strings by `^`, character literals by `'`, regular
/// expressions by `/`. An opener counts as code up to its last character.
fn classified(mut lexer: Lexer, text: &str) -> String {
    let mark = |c: char, class: Class| match class {
        _ if c == '\n' => c,
        Class::Code | Class::Prose => c,
        Class::Comment => '~',
        Class::String => '^',
        Class::Character => '\'',
        Class::Regex => '/',
    };
    text.chars().map(|c| mark(c, lexer.read(c).class)).collect()
}

/// A file extension, a text, and its classification.
#[rustfmt::skip]
const FAMILIES: &[(&str, &str, &str)] = &[
    ("rs", "f(\"a\\\"\" /* b /* c */ d */, 'x', '\\'', &'a T) // it's", "f(^^^^^ /~~~~~~~~~~~~~~~~, ''', '''', &'' T) /~~~~~~"),
    ("rs", "let s = \"a\n{b\"; r#\"\"}\"# + br\"\\\" + x", "let s = ^^\n^^^; r#^^^^^ + br^^^ + x"),
    ("py", "x = '''a\n\"b'''  #c\ny = \"\\\"\" + '' + f(\"\"\"d\"\"\")", "x = ^^^^\n^^^^^  ~~\ny = ^^^^ + ^^ + f(^^^^^^^)"),
    ("ts", "a = `b ${c(`d`)} \\` e` / f; /[/\"]/.g(/\\//) // h", "a = ^^^^{c(^^^)}^^^^^^ / f; //////.g(////) /~~~"),
    ("ts", "return /x\"/ + (a) / b / '\"'; /* c */ i++ / 2", "return //// + (a) / b / ^^^; /~~~~~~ i++ / 2"),
    ("go", "x := `a\\` + \"b\\\"\" + '\\'' /* c\n*/ + '`'", "x := ^^^^ + ^^^^^ + '''' /~~~\n~~ + '''"),
    ("c", "1'000 + '\"' + L\"a\" /* ' */ + R\"x(a)\")x\" + b // c", "1'000 + ''' + L^^^ /~~~~~~ + R^^^^^^^^^ + b /~~~"),
    ("cs", "@\"a\\\" + \"b\" + \"\"\"c\n\"\"\" + 'd'", "@^^^^ + ^^^ + ^^^^\n^^^ + '''"),
    ("java", "\"\"\"a\n\"b\"\"\" + 'c' + \"d\" // e", "^^^^\n^^^^^ + ''' + ^^^ /~~~"),
    ("kt", "\"a ${f(\"b\")} c\" + \"\"\"\\\"\"\" /* d /* */ */ fun `e (`()", "^^^^{f(^^^)}^^^ + ^^^^^^^ /~~~~~~~~~~~~ fun ^^^^^()"),
    ("swift", "\"a \\(f(\"b\")) c\" + #\"d\"e\"# /* f */", "^^^^(f(^^^))^^^ + #^^^^^^ /~~~~~~"),
    ("dart", "'a ${f('b')}' + '''c\n''' // d", "^^^^{f(^^^)}^ + ^^^^\n^^^ /~~~"),
    ("php", "#[A]\n# b\n$x = <<<EOT\n it's (\n EOT;\n$y = 'c';", "#[A]\n#~~\n$x = <<^^^^\n^^^^^^^\n^^^^;\n$y = ^^^;"),
    ("zig", "x = \\\\a \"\n '\"' // b", "x = \\^^^^\n ''' /~~~"),
    ("d", "/+ a /+ b +/ +/ `c\n\\` + x", "/~~~~~~~~~~~~~~ ^^\n^^ + x"),
    ("proto", "a = \"b\"; // c", "a = ^^^; /~~~"),
    ("v", "4'b10 /* a */ \"b\" // c", "4'b10 /~~~~~~ ^^^ /~~~"),
    ("css", "a { b: url(http://c) } /* d */ 'e'", "a { b: url(http://c) } /~~~~~~ ^^^"),
    ("scss", "a { b: url(http://c) } // d", "a { b: url(http://c) } /~~~"),
    ("json", "{\"a\\\"\": [1]} // b", "{^^^^^: [1]} /~~~"),
    ("tf", "a = \"b ${c(\"d\")}\" # e\nx = <<EOT\nit's\nEOT\n", "a = ^^^^{c(^^^)}^ ~~~\nx = <^^^^\n^^^^\n^^^\n"),
    ("toml", "a = 'b\\' # c\nd = \"\"\"e\n\"\"\"", "a = ^^^^ ~~~\nd = ^^^^\n^^^"),
    ("jl", "x = A' * 'b' #= c #= d =# =# + \"e\" # f", "x = A' * ''' ~~~~~~~~~~~~~~~ + ^^^ ~~~"),
    ("nim", "x = 'a' #[ b #[ c ]# ]# + r # d", "x = ''' ~~~~~~~~~~~~~~~ + r ~~~"),
    ("rb", "x = \"a #{b(\"c\")} d\" if y =~ /e\"/ # f\n=begin\ng'\n=end\nh << 'i'", "x = ^^^^{b(^^^)}^^^ if y =~ //// ~~~\n=begi~\n~~\n~~~~\nh <^ ^^^"),
    ("rb", "f(<<~A, b)\n it's\n A\nc << d", "f(<^^^, b)\n^^^^^\n^^\nc <^ d"),
    ("ex", "x = \"a #{b} c\" <> ~r/d\"/ # e\n\"\"\"\nf\n\"\"\"", "x = ^^^^{b}^^^ <> ~r//// ~~~\n^^^\n^\n^^^"),
    ("sh", "a=$#; echo \"$(b \"c\")\" 'd\\' # e'\ncat <<-'EOF' | f\n it's\n\tEOF\n((1<<2)) <<< \"g\"", "a=$#; echo ^^(b ^^^)^ ^^^^ ~~~~\ncat <^^^^^^^ | f\n^^^^^\n^^^^\n((1<^2)) <^< ^^^"),
    ("makefile", "a: b # c's\n\td 'e'", "a: b ~~~~~\n\td ^^^"),
    ("yaml", "a: it's # b\nc: 'd # e' # f\n- \"g\\\"\" h#i", "a: it's ~~~\nc: ^^^^^^^ ~~~\n- ^^^^^ h#i"),
    ("ini", "; a'\nb = it's # c", "~~~~\nb = it's ~~~"),
    ("cmake", "f(a # b\n#[[ c\n]] \"d)\" [=[e]]]=])", "f(a ~~~\n~~~~~\n~~ ^^^^ [=^^^^^^^)"),
    ("pl", "$#a = \"b\"; /c'/ # d's\nprint <<\"E\";\nit's\nE\n1", "$#a = ^^^; //// ~~~~~\nprint <^^^^;\n^^^^\n^\n1"),
    ("r", "x <- 'a' # b's", "x <- ^^^ ~~~~~"),
    ("nix", "''a ${b} \"c''; # d\n/* e */ x", "'^^^^{b}^^^^^; ~~~\n/~~~~~~ x"),
    ("ps1", "\"a`\" $(b \"c\")\" <# d\n#> 'e' # f\n@\"\ng\"h\n\"@ i", "^^^^^^(b ^^^)^ <~~~\n~~ ^^^ ~~~\n@^\n^^^\n^^ i"),
    ("gql", "\"\"\"a\"b\n\"\"\" c # d", "^^^^^^\n^^^ c ~~~"),
    ("lua", "a --[[ b\n]] c -- d\n[==[ e]]\n]==] 'f\\'' --[=[ g ]=] h", "a -~~~~~\n~~ c -~~~\n[==^^^^^\n^^^^ ^^^^^ -~~~~~~~~~~ h"),
    ("sql", "'a''b' -- c\n$$ d $$ /* e */ \"f\"", "^^^^^^ -~~~\n$$ d $$ /~~~~~~ ^^^"),
    ("hs", "f' 'a' '\\'' {- b {- c -} -} x -- d", "f' ''' '''' {~~~~~~~~~~~~~~ x -~~~"),
    ("adb", "x'First 'a' \"b\"\"c\" -- d", "x'First ''' ^^^^^^ -~~~"),
    ("ml", "(* a (* b *) *) 'c' : 'a list {|d\"|} \"e\"", "(~~~~~~~~~~~~~~ ''' : '' list {^^^^^ ^^^"),
    ("fs", "(* a *) // b\n\"\"\"c\"d\"\"\" @\"e\\\" 'f' x'", "(~~~~~~ /~~~\n^^^^^^^^^ @^^^^ ''' x'"),
    ("pas", "{ a's } (* b *) 'c''d' // e", "~~~~~~~ (~~~~~~ ^^^^^^ /~~~"),
    ("f90", "'a' \"b\" ! c's", "^^^ ^^^ ~~~~~"),
    ("vb", "x = \"a\" ' b\"", "x = ^^^ ~~~~"),
    ("lisp", "'(a) #\\( \"b\" #| c #| |# |# ; d", "'(a) #'' ^^^ #~~~~~~~~~~~~ ~~~"),
    ("clj", "'(a \\( \\\") \"b\" ; c", "'(a '' '') ^^^ ~~~"),
    ("erl", "'a b' $( $\" \"c\" % d's", "^^^^^ '' '' ^^^ ~~~~~"),
    ("html", "<a b=\"c'd\" e='f'>it's \"g\"</a><!-- h's -->", "<a b=^^^^^ e=^^^>it's \"g\"</a><!-~~~~~~~~~"),
    ("tex", "it's \\{ 10\\% % a", "it's '' 10'' ~~~"),
    ("md", "it's `a(` [b](c) <!-- d -->\n```sh\nit's `(\n```\n'e", "it's ^^^^ [b](c) <!-~~~~~~~\n^^`sh\nit's ^^\n^^`\n'e"),
    ("js", "<p>it's</p> 'a' // b", "<p>it's</p> ^^^ /~~~"),
    ("py", "f\"{a[\"b\"]}\" + f'{c}' + rb'd' + self.f", "f^{a[^^^]}^ + f^{c}^ + rb^^^ + self.f"),
    ("cs", "$\"a {b(\"c\")}\" + $@\"{d}\\\"", "$^^^{b(^^^)}^ + $@^{d}^^"),
    ("cpp", "u8R\"(a\")\" + LR\"x(b)x\"", "u8R^^^^^^ + LR^^^^^^^"),
    ("rs", "cr#\"a\"\"# + c\"b\" + b'c' + 'd: loop", "cr#^^^^^ + c^^^ + b''' + '': loop"),
    ("rb", "a %w(b) + %q{'c {d}'} =~ %r[e(] x % (y) ?' $' if %(z)", "a %w^^^ + %q^^^^^^^^^ =~ %r//// x % (y) ?' $' if %^^^"),
    ("rb", "x = <<~sql\n it's\n sql\ny", "x = <^^^^^\n^^^^^\n^^^^\ny"),
    ("ex", "~w[a'] ~s(b \"c) ~r{d(} ?' empty?(x) ~S\"\"\"\ne'\n\"\"\"", "~w^^^^ ~s^^^^^^ ~r//// '' empty?(x) ~S^^^\n^^\n^^^"),
    ("pl", "s{a(}{b)}g; $s{x}; q(it's); y/'/\"/; m[c(]; my $y; qw/d e/\n=pod\nit's\n=cut\n1", "s////////g; $s{x}; q^^^^^^; y/////; m////; my $y; qw^^^^^\n=po~\n~~~~\n~~~~\n1"),
    ("pl", "split /\\{/, $x; grep /{/, @a; not /{/ or /}/; s,{,,; tr,{,},; $y{s} / 2 / $s{m}", "split ////, $x; grep ///, @a; not /// or ///; s////; tr/////; $y{s} / 2 / $s{m}"),
    ("r", "r\"(a\"b)\" + R\"-(c)-\"", "r^^^^^^^ + R^^^^^^^"),
    ("jl", "\"a $(f(\"b\")) c\" * x[1]' * 'd'", "^^^^(f(^^^))^^^ * x[1]' * '''"),
    ("elm", "\"\"\"a\n\"b\"\"\" x' -- c", "^^^^\n^^^^^ x' -~~~"),
    ("el", "(eq c ?\\() ?\\\" 'd ; e", "(eq c ?'') ?'' 'd ~~~"),
    ("erl", "\"\"\"\na\"\n\"\"\" $'", "^^^\n^^\n^^^ ''"),
    ("sh", "a \\' \\( 'b' # c", "a '' '' ^^^ ~~~"),
    ("unknown", "it's\n\"a\" // b\n# c\n#d -- e\n&'a `f` '''g\n'''", "it's\n^^^ /~~~\n#~~\n#d --~~\n&'a ^^^ ^^^^\n^^^"),
];

#[test]
fn every_family_is_classified() {
    let read = |(file, text, _): &(&str, &'static str, &str)| {
        classified(Lexer::new(Language::of_path(Some(file)).syntax), text)
    };
    let wrong: Vec<_> =
        FAMILIES.iter().filter(|case| read(case) != case.2).map(|case| (case, read(case))).collect();
    assert_eq!(wrong, []);
}

#[test]
fn every_language_has_a_tested_family() {
    assert!(LANGUAGES.len() > 60);
    let tried: Vec<_> = FAMILIES.iter().map(|(file, ..)| Language::of_path(Some(file)).syntax).collect();
    for language in LANGUAGES {
        assert!(tried.contains(&language.syntax), "{}", language.name);
    }
}

#[test]
fn languages_are_found_by_file_name_and_identifier() {
    for language in LANGUAGES {
        for file in language.files.split(' ') {
            let path = if file.contains('.') { file.into() } else { format!("a/b.{file}") };
            assert_eq!(Language::of_path(Some(&path)).name, language.name, "{path}");
        }
        for id in language.ids.split(' ') {
            assert_eq!(Language::of(id, "a.py").name, language.name, "{id}");
        }
    }
    for (path, expected) in [
        ("C:\\src\\A.RS", "Rust"),
        ("src/Makefile", "Makefile"),
        ("a/CMakeLists.txt", "CMake"),
        ("notes.txt", "Plain text"),
        ("a.b/none", "Unknown"),
        ("", "Unknown"),
        ("a.", "Unknown"),
    ] {
        assert_eq!(Language::of_path(Some(path)).name, expected, "{path}");
        assert_eq!(Language::of("", path).name, expected, "{path}");
    }
    assert_eq!(Language::of_path(None).name, "Unknown");
    let of = |id| Language::of(id, "");
    assert!(of("cpp").is_like(of("java")) && of("typescript").is_like(of("javascript")));
    assert!(!of("go").is_like(of("rust")));
}

#[test]
fn lexer_errors_end_with_the_line() {
    for language in LANGUAGES {
        let lexer = Lexer::unsure(language.syntax).read_all("it's \"a\nb");
        assert!(!lexer.is_inside(), "{}", language.name);
    }
    assert!(Lexer::new(Language::of("rust", "").syntax).read_all("\"a\nb").is_inside());
}

#[test]
fn a_prefix_may_end_between_triple_quotes() {
    let after = |id, prefix: &str| Lexer::after(Language::of(id, "").syntax, prefix).quote();
    let triple = "\"\"\"";
    assert_eq!(after("python", &format!("x = {triple}a{triple}\n{triple}b")), Some('"'));
    assert_eq!(after("python", &format!("{triple}a{triple}")), None);
    assert_eq!(after("python", "'''a"), Some('\''));
    assert_eq!(after("go", &format!("{triple}\nx")), None);
    assert_eq!(after("go", "\nf(\"a"), Some('"'));
}

#[test]
fn strings_end_before_their_closer() {
    for (id, before, text, expected) in [
        ("python", "f(\"", "a \\\" b\")", Some("a \\\" b")),
        ("python", "\"\"\"", "a \"b\" c\"\"\"\n", Some("a \"b\" c")),
        ("python", "f('", "a\nb'", None),
        ("python", "f('", "a", None),
        ("python", "f(", "a'", None),
        ("typescript", "`", "${f(`a`)} b` + c", Some("${f(`a`)} b")),
        ("rust", "r#\"", "\"a\"#;", Some("\"a")),
        ("rust", "f('", "\\'')", Some("\\'")),
        ("rust", "f('", "x')", Some("x")),
    ] {
        let lexer = Lexer::unsure(Language::of(id, "").syntax).read_all(before);
        assert_eq!(string_end(lexer, text).map(|end| &text[..end]), expected, "{before}$0{text}");
    }
}

#[test]
fn any_text_is_accepted() {
    const PIECES: [&str; 32] = [
        "{", "}", "(", ")", "[", "]", "\n", "\r\n", " ", "\"", "'", "`", "\\", "🦀", "é", "/", "*", "-", "#",
        "<", ">", "=", "$", "%", "r", "R", "_", "E", "|", "~", "begin", ";",
    ];
    let mut random = Mmix(1);
    let mut piece = || PIECES[random.below(PIECES.len())];
    for language in LANGUAGES {
        for _ in 0..40 {
            let text: String = (0..60).map(|_| piece()).collect();
            let mut delimiters = Delimiters::new(Lexer::new(language.syntax), "");
            delimiters.read_all(&text);
            assert!(delimiters.open().len() <= text.len());
            let end = string_end(Lexer::unsure(language.syntax).read_all("\""), &text);
            assert!(end.is_none_or(|end| text.is_char_boundary(end)), "{text:?}");
        }
    }
}
