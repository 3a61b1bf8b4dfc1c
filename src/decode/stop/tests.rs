use super::*;
use crate::text::Language;

/// For a completion in the file `path`.
fn lexer(path: &str) -> Lexer {
    Lexer::unsure(Language::of_path(Some(path)).syntax)
}

/// Feeds `text` in pieces of one to three characters and as a whole: all must end alike.
#[track_caller]
fn check(stop: &Stop, text: &str, kept: &str) {
    let chars: Vec<char> = text.chars().collect();
    for size in [1, 2, 3, chars.len().max(1)] {
        let (mut stop, mut so_far) = (stop.clone(), String::new());
        let cut = chars.chunks(size).find_map(|piece| {
            so_far.extend(piece);
            stop.check(&so_far)
        });
        assert_eq!(&so_far[..cut.unwrap_or(so_far.len())], kept, "in pieces of {size}");
    }
}

fn block(open: &str, indent: usize, suffix_start: &str) -> Block {
    let (open, suffix_start) = (open.into(), suffix_start.into());
    let (extent, blocks) = (Extent::Block, Blocks::Any);
    Block { open, indent, extent, suffix_start, lines_max: 8, blocks, joins: None }
}

#[test]
fn single_lines() {
    check(&Stop::none(), "a\n\n\n\n", "a\n\n\n\n");
    let cases = [
        ("", "", "x = 1\ny", "x = 1"),
        ("", "", "x = 1  \r\ny", "x = 1"),
        ("", "", "\n  foo", ""),
        ("", ")", "x)", "x"),
        ("", ");\n", "f(x), [\")\"]);", "f(x), [\")\"]"),
        ("", "\n)", "x)", "x"),
        ("(", "\n)", "x)\n", "x)"),
        ("", "]", "a['x'], '🦀'][0]", "a['x'], '🦀'"),
        ("", ")", "&'a str) {", "&'a str"),
        ("", ")", "x // :)\n", "x // :)"),
    ];
    for (open, suffix, text, kept) in cases {
        check(&Stop::single_line(open, suffix), text, kept);
    }
}

#[test]
fn blocks_end_by_indentation() {
    let cases = [
        // Python: after the colon, and on the blank line below it.
        (block("", 1, ""), "\n    return 1\n\ndef g():\n", "\n    return 1"),
        (
            block("", 4, "\n"),
            "a = 1\n    if a:\n        b\n    c\nd = 1",
            "a = 1\n    if a:\n        b\n    c",
        ),
        // The closer is in the suffix: not repeated.
        (block("", 4, "\n}\n"), "let a = 1;\n    a\n}\n\nfn g", "let a = 1;\n    a"),
        (block("", 1, "}"), "\n    body\n}\n", "\n    body\n"),
        (block("", 2, "\nend"), "return 1\nend\n", "return 1"),
        // It is not: the completion closes its block and ends.
        (block("{", 1, ""), "\n    a\n}\n\nfn g", "\n    a\n}"),
        (block("{", 5, "\n}"), "\n        a\n    }\n}\n", "\n        a\n    }"),
        (block("{", 1, "\nfn g"), "\n    a\n} else {\n    b\n}\nx", "\n    a\n} else {\n    b\n}"),
        (block("", 1, ""), "\n  return 1\nend\nx", "\n  return 1\nend"),
        // The block continues below the cursor: the closer belongs there.
        (block("", 4, "\n    b();\n}"), "a();\n}\n", "a();"),
        // Tabs, and closers of inner blocks.
        (block("", 4, "\n}"), "for {\n\t\tx()\n\t}\n\ty()\n}\n", "for {\n\t\tx()\n\t}\n\ty()"),
    ];
    for (block, text, kept) in cases {
        check(&Stop::multi_line(block), text, kept);
    }
}

#[test]
fn languages_differ_in_comments_and_strings() {
    let cases = [
        ("a.lua", ")", "x -- :) (\n", "x -- :) ("),
        ("a.lua", ")", "x --[[ ) ]])\n", "x --[[ ) ]]"),
        ("a.c", ")", "i--)\n", "i--"),
        ("", ")", "i--)\n", "i--"),
        ("", ")", "x -- :)\n", "x -- :)"),
        ("a.py", ")", "a // b) + (c\n", "a // b"),
        ("a.py", ")", "a  # :)\n", "a  # :)"),
        ("a.rs", ")", "x: Foo<'a, 'b>) {\n", "x: Foo<'a, 'b>"),
        ("a.rs", ")", "')', '\\'')\n", "')', '\\''"),
        ("a.rs", ")", "x /* ) */)\n", "x /* ) */"),
    ];
    for (path, suffix, text, kept) in cases {
        let language = Language::of_path(Some(path).filter(|path| !path.is_empty()));
        check(&Stop::single_line("", suffix).read_by(Lexer::unsure(language.syntax)), text, kept);
    }
}

#[test]
fn text_of_several_lines_is_not_code() {
    let docstring = "\"\"\"Does\n\nthis (and\nthat.\n\"\"\"\n    return 1\n\nx = 1";
    let cases = [
        ("a.py", block("", 4, ""), docstring, "\"\"\"Does\n\nthis (and\nthat.\n\"\"\"\n    return 1"),
        ("a.ts", block("", 2, "\n}"), "const s = `a\n}\nb`;\n  f();\n}\n", "const s = `a\n}\nb`;\n  f();"),
        ("a.c", block("", 4, "\n}"), "/* a\nb\n*/\n    f();\n}\n", "/* a\nb\n*/\n    f();"),
        ("a.lua", block("", 2, "\nend"), "--[[ a\nb\n]]\n  f()\nend\n", "--[[ a\nb\n]]\n  f()"),
    ];
    for (path, block, text, kept) in cases {
        check(&Stop::multi_line(block).read_by(lexer(path)), text, kept);
    }
    let inside = Stop::multi_line(block("", 4, "")).read_by(Lexer::after(lexer("a.py").syntax(), "\"\"\""));
    check(&inside, "a\n\nb\n\"\"\"\n    x\ny = 1\n", "a\n\nb\n\"\"\"\n    x");
}

#[test]
fn blocks_may_not_be_indented() {
    let cases = [
        (block("{", 1, ""), "\nint f() {\n    g();\n}\n}\nint h", "\nint f() {\n    g();\n}\n}"),
        (
            block("{", 5, ""),
            "\n    case 1:\n        f();\n    default:\n        g();\n    }\n    h",
            "\n    case 1:\n        f();\n    default:\n        g();\n    }",
        ),
        (
            block("{", 1, ""),
            "\n    int x;\npublic:\n    int y;\n}\nint z",
            "\n    int x;\npublic:\n    int y;\n}",
        ),
        (
            block("{", 1, ""),
            "\n    a();\n#ifdef B\n    b();\n#endif\n}\nint z",
            "\n    a();\n#ifdef B\n    b();\n#endif\n}",
        ),
        (block("", 1, "}"), "\ncase 1:\n    f();\n}\nint z", "\ncase 1:\n    f();\n"),
        // A case below the cursor's belongs to the block around it.
        (block("", 8, "\n"), "f();\n    case 2:\n", "f();"),
    ];
    for (block, text, kept) in cases {
        check(&Stop::multi_line(block).read_by(lexer("a.cpp")), text, kept);
    }
}

#[test]
fn fences_are_skipped() {
    let cases = [
        ("```py\nx = 1\ny", "```py\nx = 1"),
        ("x = 1\n```", "x = 1"),
        ("``x\n", "``x"),
        ("```\n```\n", "```\n"),
    ];
    for (text, kept) in cases {
        check(&Stop::single_line("", "").with_fences(), text, kept);
    }
    let text = "```\na\nb\n```\nc";
    check(&Stop::multi_line(block("", 0, "")).with_fences(), text, "```\na\nb");
}

#[test]
fn items_end_with_their_body() {
    let item = |indent| Block { extent: Extent::Item, ..block("", indent, "") };
    let cases = [
        (0, "fn f(\n    a: u8,\n) -> u8 {\n    a\n}\nfn g", "fn f(\n    a: u8,\n) -> u8 {\n    a\n}"),
        (0, "def f():\n    a = 1\n\n    b\n\ndef g", "def f():\n    a = 1\n\n    b"),
        (
            2,
            "local s = 0\n  for i = 1, 2 do\n    s = i\n  end\n  x",
            "local s = 0\n  for i = 1, 2 do\n    s = i\n  end",
        ),
        (2, "a = 1;\n\n  b = 2;", "a = 1;"),
    ];
    for (indent, text, kept) in cases {
        check(&Stop::multi_line(item(indent)), text, kept);
    }
}

#[test]
fn repetition_ends() {
    let cases = [
        (block("", 0, "\n  next(x)\n"), "a\n  b\n  next(x)\n", "a\n  b"),
        (block("", 0, ""), "a\n\n\n\nb", "a"),
        (block("", 0, ""), "x\nfoo()\nfoo()\nfoo()\n", "x\nfoo()"),
        (block("", 0, ""), "aa\nbb\naa\nbb\naa\nbb\n", "aa\nbb"),
        (block("", 0, ""), "]\n]\n]\n", "]\n]\n]\n"),
        (Block { lines_max: 3, ..block("", 0, "") }, "a\nb\nc\nd\n", "a\nb\nc"),
    ];
    for (block, text, kept) in cases {
        check(&Stop::multi_line(block), text, kept);
    }
    let mut stop = Stop::single_line("", "");
    let looping = "x = ".to_string() + &"é, 12, ".repeat(60);
    assert_eq!(stop.check(&looping).map(|cut| &looping[..cut]), Some("x = é, 12,"));
    assert_eq!(Stop::single_line("", "").check(&"-".repeat(500)), None);
}

/// A block of words.
fn words(path: &str, indent: usize, suffix_start: &str) -> Block {
    let blocks = Language::of_path(Some(path)).blocks;
    Block { blocks, ..block("", indent, suffix_start) }
}

#[test]
fn words_close_blocks() {
    let cases = [
        ("a.sh", words("a.sh", 4, ""), "a\n    b\nfi\nc", "a\n    b\nfi"),
        ("a.sh", words("a.sh", 4, "\ndone"), "a\n    b\ndone\nc", "a\n    b"),
        ("a.v", words("a.v", 2, "\nendmodule"), "a;\nendmodule\n", "a;"),
        ("a.v", words("a.v", 2, ""), "a;\nendmodule\nb", "a;\nendmodule"),
        ("a.sql", words("a.sql", 2, ""), "a;\nEND;\nb", "a;\nEND;"),
    ];
    for (path, block, text, kept) in cases {
        check(&Stop::multi_line(block).read_by(lexer(path)), text, kept);
    }
    let item = Block { extent: Extent::Item, ..words("a.vhd", 0, "") };
    let text = "architecture a of b is\n\nbegin\n  c <= d;\nend;\n\nentity";
    check(&Stop::multi_line(item).read_by(lexer("a.vhd")), text, &text[..text.len() - 8]);
}

#[test]
fn a_text_may_have_to_open_the_block_of_the_line_below() {
    let joins = |below: &str| Block { joins: Some(8), ..block("", 4, below) };
    let cases = [
        // It leaves its block, and opens the next one.
        ("\n        c();\n", "a();\n}\n\nfn f() {\n    if b {", "a();\n}\n\nfn f() {\n    if b {"),
        (
            "\n        c();\n",
            "a();\n}\nfn f() {\n    if b {\n        c();\n",
            "a();\n}\nfn f() {\n    if b {",
        ),
        (
            "\n        c();\n",
            "a();\n}\nfn f() {\n    if b {\n        d();\n",
            "a();\n}\nfn f() {\n    if b {",
        ),
        (
            "\n        c();\n",
            "if a {\n        b();\n    }\n    d();\n",
            "if a {\n        b();\n    }\n    d();\n",
        ),
    ];
    for (below, text, kept) in cases {
        check(&Stop::multi_line(joins(below)).before_closer(Some('}')), text, kept);
    }
}

#[test]
fn statements_go_on_to_their_end() {
    let statement = |open: &str, indent, below: &str| {
        Stop::statement(Block { extent: Extent::Statement, ..block(open, indent, below) })
            .read_by(lexer("a.js"))
    };
    let cases = [
        ("    ", "", "", "x = f(a,\n        b);\n    y", "x = f(a,\n        b);"),
        ("    ", "", "", "x = [\n        a,\n    ];\n    y", "x = [\n        a,\n    ];"),
        ("    ", "", "", "x = {\n        a: b,\n    };\n    y", "x = {\n        a: b,\n    };"),
        ("    ", "", "", "x = 1;\n    y", "x = 1;"),
        // The head of a block.
        ("    ", "", "", "if (a) {\n        b;\n    }\n", "if (a) {"),
        // What is open above, and not closed below.
        ("        ", "(", "\n    z", "a,\n        b);\n    y", "a,\n        b);"),
        // An argument of several lines behind its opener.
        ("    f(", "", ")", "\n        a,\n        b,\n    );\n", "\n        a,\n        b,\n    "),
        ("    f()", "", "\n    z", "\n    y\n", ""),
        ("    f()", "", "\n    z", "\n        .g()\n        .h()\n    y\n", "\n        .g()\n        .h()"),
        // The line below is already deeper.
        ("    f()", "", "\n        .h()", "\n        .g()\n", ""),
        ("#define A ", "", "", "a + \\\n    b\nc", "a + \\\n    b"),
    ];
    for (before, open, below, text, kept) in cases {
        let indent = before.len() - before.trim_start().len();
        check(&statement(open, indent, below).after(before), text, kept);
    }
}

#[test]
fn what_the_suffix_has_is_dropped_behind_a_repetition() {
    let cases = [
        // A line of the suffix and then blank ones are no coincidence.
        (block("", 0, "\n    d()\n\n\nc()"), "def a():\n    d()\n\n\nc()\n", "def a():"),
        // Nor are its closing delimiters.
        (block("", 4, "\n    }\n}\n"), "if (a) {\n        b;\n    }\n}\n", "if (a) {\n        b;"),
        // Two lines that skip one of the suffix are.
        (
            block("", 0, "\na(x)\n  b()\n  c()\n"),
            "d(x)\n  b()\n  c()\n  e()\n",
            "d(x)\n  b()\n  c()\n  e()\n",
        ),
    ];
    for (block, text, kept) in cases {
        check(&Stop::multi_line(block).before_closer(Some('}')), text, kept);
    }
}

#[test]
fn a_string_of_several_lines_ends_where_the_suffix_ends_it() {
    let inside = Lexer::after(lexer("a.py").syntax(), "x = \"\"\"a\n");
    let stop = |suffix: &str| Stop::multi_line(block("", 0, suffix)).read_by(inside).inside_string(true);
    check(&stop("\nc\n\"\"\""), "a\nb\n\"\"\"\nf()", "a\nb\n");
    check(&stop("\nc {\n}\n\"\"\""), "a\nc {\n}\n\"\"\"\nf()", "a");
    let comment = Lexer::after(lexer("a.js").syntax(), "/**\n * ");
    let block = Block { extent: Extent::Comment, ..block("", 1, "\nf()") };
    check(&Stop::multi_line(block).read_by(comment), "A.\n *\n * B.\n */\nf() {", "A.\n *\n * B.\n */");
}

#[test]
fn a_text_that_ends_by_itself_may_leave_its_block() {
    let python = |below: &str| block("", 4, below);
    let braces = |below: &str| Block { blocks: Language::of_path(Some("a.c")).blocks, ..block("", 4, below) };
    let item = |below: &str| Block { extent: Extent::Item, ..block("", 0, below) };
    // The file, the block, what is closed behind the cursor, the text, and what is left of it without its block's end.
    let cases = [
        ("a.py", python("\n    c()\n"), "", "a()\n\ndef f():\n    b()", "a()"),
        ("a.c", braces("\n    c();\n}\n"), "{", "a();\n}\n\nint f() {\n    b();", "a();"),
        ("a.py", item("\ng()\n"), "", "import a\n\nimport b", "import a"),
        ("a.py", item("\ng()\n"), "", "def f():\n    a()\n\n\ndef h():\n    b()", "def f():\n    a()"),
    ];
    for (path, block, closed, text, in_block) in cases {
        let closer = closed.contains('{').then_some('}');
        let stop = |lines_max| {
            let stop = Stop::multi_line(block.clone()).read_by(lexer(path)).before_closer(closer);
            stop.beyond_block(lines_max, closed)
        };
        let end = |text: &str, reason| {
            let end = stop(4).end(text, reason);
            text[..end.unwrap_or(text.len())].to_owned()
        };
        assert_eq!(end(text, StopReason::EndToken), text);
        assert_eq!(end(text, StopReason::Length), in_block, "cut by a limit");
        check(&stop(0), &format!("{text}\n"), in_block);
        check(&stop(4), &format!("{text}\n"), &format!("{text}\n"));
        let more = format!("{text}\n    d();\n    e();\n    f();\n    g();\n    h();\n");
        check(&stop(4), &more, in_block);
        // The suffix begins there.
        let suffix = block.suffix_start.trim_start_matches('\n');
        check(&stop(4), &format!("{text}\n{suffix}{suffix}"), text);
    }
}

#[test]
fn a_text_that_ends_by_itself_leaves_open_what_the_suffix_closes() {
    let c = |below: &str| Block { blocks: Language::of_path(Some("a.c")).blocks, ..block("", 4, below) };
    let stop = || {
        let stop = Stop::multi_line(c("\n    c();\n}\n")).read_by(lexer("a.c")).before_closer(Some('}'));
        stop.beyond_block(4, "{")
    };
    for (text, kept) in [
        ("a();\n}\n\nint f() {\n    b();", "a();\n}\n\nint f() {\n    b();"),
        ("a();\n}\n\nint f();", "a();"),
        ("a();\n}\n\nint f() {\n    if (b) {", "a();"),
        ("a();\n}\n}\n{{", "a();"),
    ] {
        let end = stop().end(text, StopReason::EndToken);
        assert_eq!(&text[..end.unwrap_or(text.len())], kept);
    }
}

#[test]
fn a_text_may_begin_like_the_next_entry() {
    let list = || Stop::multi_line(block("", 0, "\n[[a]]\nb = 1\nc = 2\nd = 3\ne = 4\n"));
    let other = "[[a]]\nb = 1\nc = 3\n";
    check(&list(), other, other);
    check(&list(), "[[a]]\nb = 1\nc = 2\nd = 3\ne = 4\n", "");
    let end = list().end("[[a]]\nb = 1\nc =", StopReason::Length);
    assert_eq!(end, Some(0), "it may go on like the suffix");
    // Of one line there is no telling.
    let line = Stop::single_line("", "\nb = 1\nc = 2\n");
    check(&line, "b = 1\nc = 2\n", "");
    // A line that the user has begun is meant.
    let begun = |reason| Stop::single_line("", "\nf(a);\ng();").after("f").end("(a);", reason);
    assert_eq!((begun(StopReason::EndToken), begun(StopReason::Length)), (None, Some(0)));
}

#[test]
fn two_closers_on_a_line_are_both_in_the_suffix() {
    let stop = Stop::multi_line(block("", 4, "\n}}\nS!{s\n")).before_closer(Some('}'));
    check(&stop, "a: b,\n    c: d,\n}}\nS!{t {\n", "a: b,\n    c: d,");
}

#[test]
fn a_text_that_ends_its_fence_ends_by_itself() {
    let stop = |suffix: &str| Stop::multi_line(block("", 0, suffix)).before_closer(Some('}')).inside_fence();
    check(&stop("\n"), "a()\nb()\n```\nDone.\n", "a()\nb()");
    check(&stop("\n}\n"), "a()\n}\n```\nDone.\n", "a()");
    check(&stop("\nb()\nc()\n"), "a()\nb()\n```\n", "a()");
    check(&stop("\n"), "```\nDone.\n", "");
    check(&stop("\n"), "a(`b`)\n``\n", "a(`b`)\n``\n");
}
