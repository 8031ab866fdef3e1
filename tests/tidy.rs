//! Checks that read the tree: layers, words, sizes, places of `unsafe`, files that nothing names.
//!
//! Each check is a function from one file (or the list of them) to faults, so that a test can show
//! that it finds a planted one. A word or file that is allowed against a rule is listed here with
//! the reason; a listed exception that nothing needs is a fault too where that can be told.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A file of the tree.
struct Source {
    /// From the root of the tree, with slashes.
    path: String,
    text: String,
}

/// One place that breaks a rule: `path:line: what`.
type Fault = String;

/// Imports within a layer.
const NEIGHBORS: &[(&str, &str, &str)] = &[
    ("config", "limits", "a value is checked against our maxima where it is read"),
    ("logging", "clock", "the test of repeated faults counts seconds"),
    ("stream", "ring", "its memory is fetched ahead by what is next to the kernel"),
    ("metrics", "shard", "it is asked shard by shard what to show"),
    ("cli", "demo", "the demo is a subcommand"),
    ("cli", "doctor", "so is the doctor"),
    ("demo", "cli", "a subcommand has the exit codes and signals of all: the one cycle"),
];

/// Words of another product, or of none: [`WORDS`] are looked for in identifiers and comments,
/// [`NAME_PARTS`] in identifiers alone. "Reader" is not among them: it is what our cursors and parsers
/// are called, and no text tells those from a player.
const WORDS: &[&str] = &["viewer", "subscriber", "upstream", "backend", "online"];
const NAME_PARTS: &[&str] = &["Manager", "Helper", "Util", "Utils", "Impl", "Info"];

/// Where such a word is right: the beginning of a path, and the word.
const ALLOWED_WORDS: &[(&str, &str, &str)] = &[
    ("src/shard/", "subscriber", "a shard that takes a stream from its owner; no peer is meant"),
    ("src/config/", "subscriber", "the crate tracing_subscriber"),
    ("src/logging.rs", "subscriber", "the crate tracing_subscriber"),
    ("src/api/", "online", "isMediaOnline and its answer"),
    ("tests/", "online", "what isMediaOnline says"),
    ("src/api/", "Info", "getMediaInfo, getProxyInfo"),
];

/// Where memory is handled by hand.
const UNSAFE_PLACES: &[(&str, &str)] = &[
    ("src/ring/", "memory and descriptors that the kernel shares"),
    ("src/stream/arena.rs", "chunks written once and read meanwhile"),
    ("src/rt/event_source.rs", "glommio takes descriptors as numbers"),
    ("benches/kit/allocations.rs", "an allocator that counts"),
];

/// Lines of a file, and of those the ones that are not its tests.
const LINES_MAX: usize = 700;
const CODE_LINES_MAX: usize = 500;

/// Files beyond that, with the lines that they have: to be split by noun, not to grow.
const LONG_FILES: &[(&str, usize)] = &[];

#[test]
fn imports_go_down_the_layers() {
    let layers = layers(&read("src/lib.rs"));
    assert!(layers.len() >= 9, "the list in src/lib.rs was not understood: {layers:?}");
    assert_none(of_each(&rust_files(&["src"]), |file| import_faults(&layers, file)));
}

#[test]
fn import_of_a_higher_layer_is_found() {
    let layers = layers("//! 1. [`clock`], `rt`: a.\n//! 2. [`media`]: b\n//! 3. [`net`]: c");
    let found = |path: &str, text: &str| import_faults(&layers, &source(path, text)).len();
    assert_eq!(found("src/media/key.rs", "use crate::net::Link;"), 1);
    assert_eq!(found("src/media/key.rs", "fn now() { crate::net::link() }"), 1);
    assert_eq!(found("src/rt.rs", "use crate::clock::now;"), 1);
    assert_eq!(found("src/other/mod.rs", "use crate::clock;"), 1);
    assert_eq!(found("src/net/mod.rs", "use crate::media::Codec;\nuse crate::net::link;"), 0);
    assert_eq!(found("src/rt.rs", "//! See [`crate::net`].\n"), 0);
}

#[test]
fn every_exception_among_neighbors_is_used() {
    let files = rust_files(&["src"]);
    for (from, to, _) in NEIGHBORS {
        let uses = |file: &Source| module_of(&file.path) == *from && imports(file).contains(*to);
        assert!(files.iter().any(uses), "no file of {from} imports {to}");
    }
}

#[test]
fn words_are_ours() {
    assert_none(of_each(&rust_files(&["src", "tests", "benches"]), word_faults));
}

#[test]
fn foreign_word_is_found() {
    let found = |path: &str, text: &str| word_faults(&source(path, text)).len();
    assert_eq!(found("src/net/a.rs", "let viewer_count = 1;"), 1);
    assert_eq!(found("src/net/a.rs", "// Players that are Online.\nstruct StreamManager;"), 2);
    assert_eq!(found("src/net/a.rs", "struct MediaInfo;\nfn get_codec() {}"), 2);
    assert_eq!(
        found("src/net/a.rs", "let name = \"getMediaInfo online\"; let information = 1;"),
        0
    );
    assert_eq!(found("src/api/a.rs", "struct MediaInfo { online: bool }"), 0);
    assert_eq!(found("src/net/a.rs", "fn get_mut(&mut self) {} // map.get_mut()"), 0);
}

#[test]
fn unsafe_stays_in_its_places() {
    assert_none(of_each(&rust_files(&["src", "tests", "benches"]), unsafe_faults));
}

#[test]
fn misplaced_or_unexplained_unsafe_is_found() {
    let found = |path: &str, text: &str| unsafe_faults(&source(path, text)).len();
    assert_eq!(found("src/net/a.rs", "// SAFETY: it is not.\nunsafe { f() }"), 1);
    assert_eq!(found("src/ring/a.rs", "unsafe { f() }"), 1);
    assert_eq!(found("src/ring/a.rs", "// SAFETY: f has no contract.\nunsafe { f() }"), 0);
    assert_eq!(found("src/net/a.rs", "// unsafe is a word here\nlet a = \"unsafe\";"), 0);
}

#[test]
fn only_the_clock_reads_the_clock() {
    assert_none(of_each(&rust_files(&["src", "benches"]), clock_faults));
}

#[test]
fn reading_the_clock_elsewhere_is_found() {
    let found = |path: &str, text: &str| clock_faults(&source(path, text)).len();
    assert_eq!(found("src/net/a.rs", "let a = Instant::now();\nlet b = SystemTime::now();"), 2);
    assert_eq!(found("src/clock.rs", "Instant::now()"), 0);
    assert_eq!(found("src/net/a.rs", "let a = clock::now(); // not Instant::now"), 0);
}

#[test]
fn nothing_is_left_to_be_done() {
    assert_none(of_each(&rust_files(&["src", "tests", "benches"]), open_end_faults));
}

#[test]
fn open_end_is_found() {
    let found = |text: &str| open_end_faults(&source("src/a.rs", text)).len();
    assert_eq!(found(&["// TO", "DO: write this\nto", "do!()\nunimple", "mented!()"].concat()), 3);
    assert_eq!(found("let todos = 1; // the method of the day"), 0);
}

#[test]
fn files_say_what_they_are() {
    let files = rust_files(&["src", "tests", "benches"]);
    assert_none(of_each(&files, document_faults));
    assert_eq!(document_faults(&source("src/a.rs", "use std::fs;\n")).len(), 1);
}

#[test]
fn files_are_short() {
    let files = rust_files(&["src", "tests", "benches"]);
    assert_none(of_each(&files, size_faults));
    for (path, _) in LONG_FILES {
        let file = files.iter().find(|file| file.path == *path).expect("a listed file is there");
        assert!(is_long(file), "{path} is no exception any more");
    }
}

#[test]
fn long_file_is_found() {
    let line = "let a = 1;\n";
    let tests = "#[cfg(test)]\nmod tests {\n";
    let found = |path, text: &str| size_faults(&source(path, text)).len();
    assert_eq!(found("src/a.rs", &line.repeat(CODE_LINES_MAX)), 0);
    assert_eq!(found("src/a.rs", &line.repeat(CODE_LINES_MAX + 1)), 1);
    assert_eq!(found("src/a.rs", &[&line.repeat(9), tests, &line.repeat(600)].concat()), 0);
    assert_eq!(found("src/a.rs", &[&line.repeat(9), tests, &line.repeat(700)].concat()), 1);
}

#[test]
fn every_file_is_a_module() {
    let files = rust_files(&["src"]);
    assert_none(dead_file_faults(&files));
    let planted =
        [source("src/lib.rs", "pub mod a;"), source("src/a.rs", ""), source("src/b.rs", "")];
    assert_eq!(dead_file_faults(&planted), ["src/b.rs: no module declares it"]);
}

#[test]
fn index_of_documents_is_complete() {
    if let Ok(index) = fs::read_to_string(root().join("docs/README.md")) {
        let documents = files_of(&["docs"], &["md"]);
        assert_none(index_faults(&index, documents.iter().map(|file| file.path.as_str())));
    }
    let planted = ["docs/README.md", "docs/a.md", "docs/decisions/0001-b.md"];
    assert_eq!(index_faults("[a](a.md)", planted).len(), 1);
    assert_eq!(index_faults("[a](a.md), [b](decisions/0001-b.md)", planted).len(), 0);
}

#[test]
fn no_file_names_a_machine() {
    let mut files = files_of(
        &["src", "tests", "benches", "docs", "tuning", ".ci"],
        &["rs", "md", "toml", "json", "sh", "conf", "service", ""],
    );
    files.extend(
        ["Cargo.toml", "test", ".clippy.toml", ".gitignore"]
            .map(|path| Source { path: path.to_owned(), text: read(path) }),
    );
    assert_none(of_each(&files, machine_faults));
    let planted = ["see /wo", "rk/notes and /ho", "me/me/x"].concat();
    assert_eq!(machine_faults(&source("docs/a.md", &planted)).len(), 1);
    assert_eq!(machine_faults(&source("docs/a.md", "see /network/notes")).len(), 0);
}

#[test]
fn benches_are_files_and_files_are_benches() {
    let files = rust_files(&["benches"]);
    // What lies deeper is a part of a bench, or shared by them; `main.rs` is the bench of its folder.
    let paths = files.iter().map(|file| file.path.replace("/main.rs", ".rs"));
    let paths: Vec<String> = paths.filter(|path| path.matches('/').count() == 1).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    assert_none(bench_faults(&read("Cargo.toml"), &paths));
    let manifest = "[[bench]]\nname = \"a\"\nharness = false";
    assert_eq!(bench_faults(manifest, &["benches/b.rs"]).len(), 2);
    assert_eq!(bench_faults(manifest, &["benches/a.rs"]).len(), 0);
}

/// The layers as the document of `src/lib.rs` numbers them: the names before each colon.
fn layers(lib: &str) -> Vec<Vec<String>> {
    let numbered = lib.lines().filter_map(|line| {
        let (number, rest) = line.strip_prefix("//! ")?.split_once(". ")?;
        number.parse::<u8>().ok()?;
        let names = rest.split(':').next()?;
        Some(names.split('`').skip(1).step_by(2).map(str::to_owned).collect())
    });
    numbered.collect()
}

fn import_faults(layers: &[Vec<String>], file: &Source) -> Vec<Fault> {
    let own = module_of(&file.path);
    // The binary's first lines, and the list itself.
    if matches!(own, "main" | "lib") {
        return Vec::new();
    }
    let layer_of = |module: &str| layers.iter().position(|layer| layer.iter().any(|m| m == module));
    let Some(own_layer) = layer_of(own) else {
        return vec![format!("{}: {own} is in no layer of src/lib.rs", file.path)];
    };
    let is_allowed = |module: &str| match layer_of(module) {
        _ if module == own => true,
        Some(layer) if layer == own_layer => {
            NEIGHBORS.iter().any(|(from, to, _)| (*from, *to) == (own, module))
        }
        Some(layer) => layer < own_layer,
        None => false,
    };
    let upward = imports(file).into_iter().filter(|module| !is_allowed(module));
    upward.map(|module| format!("{}: {own} imports {module}", file.path)).collect()
}

/// The modules of the crate that a file names in code.
fn imports(file: &Source) -> BTreeSet<String> {
    let code = blanked(&file.text, Blank::StringsAndComments);
    let named = code.split("crate::").skip(1).flat_map(|rest| {
        let group = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
        let paths = group.map_or_else(|| vec![rest], |group| group.split(',').collect());
        paths
            .into_iter()
            .filter_map(|path| words(path).next().map(str::to_owned))
            .collect::<Vec<_>>()
    });
    named.filter(|name| name.starts_with(|first: char| first.is_ascii_lowercase())).collect()
}

/// `src/a/b.rs` and `src/a.rs` are of module `a`.
fn module_of(path: &str) -> &str {
    let path = path.strip_prefix("src/").unwrap_or(path);
    let end = path.find(['/', '.']).unwrap_or(path.len());
    &path[..end]
}

fn word_faults(file: &Source) -> Vec<Fault> {
    let is_allowed = |word: &str| {
        ALLOWED_WORDS.iter().any(|(place, known, _)| *known == word && file.path.starts_with(place))
    };
    let mut faults = Vec::new();
    let text = blanked(&file.text, Blank::Strings);
    let code = blanked(&file.text, Blank::StringsAndComments);
    for (at, (line, code)) in text.lines().zip(code.lines()).enumerate() {
        let lower = line.to_ascii_lowercase();
        let in_text = WORDS.iter().filter(|word| lower.contains(**word));
        let in_names =
            NAME_PARTS.iter().filter(|part| words(code).any(|name| has_part(name, part)));
        for word in in_text.chain(in_names).filter(|word| !is_allowed(word)) {
            faults.push(format!("{}:{}: {word}", file.path, at + 1));
        }
        // `get_mut` is what the standard library calls it.
        let getter = code.split("fn get_").nth(1).filter(|rest| !rest.starts_with("mut("));
        if getter.is_some() {
            faults.push(format!("{}:{}: get_", file.path, at + 1));
        }
    }
    faults
}

/// Whether a name in camel case has the part: `MediaInfo` has `Info`, `Information` has not.
fn has_part(name: &str, part: &str) -> bool {
    name.match_indices(part).any(|(at, _)| {
        let next = name[at + part.len()..].chars().next();
        next.is_none_or(|next| !next.is_ascii_lowercase())
    })
}

fn unsafe_faults(file: &Source) -> Vec<Fault> {
    let code = blanked(&file.text, Blank::StringsAndComments);
    let is_place = UNSAFE_PLACES.iter().any(|(place, _)| file.path.starts_with(place));
    let lines: Vec<&str> = file.text.lines().collect();
    let uses =
        code.lines().enumerate().filter(|(_, line)| words(line).any(|word| word == "unsafe"));
    let faults = uses.filter_map(|(at, _)| {
        // One comment may stand for a statement, or for two blocks that belong together.
        let is_explained =
            lines[at.saturating_sub(12)..at].iter().any(|line| line.contains("SAFETY:"));
        let fault = match (is_place, is_explained) {
            (false, _) => "unsafe has no place here",
            (true, false) => "no SAFETY comment",
            (true, true) => return None,
        };
        Some(format!("{}:{}: {fault}", file.path, at + 1))
    });
    faults.collect()
}

fn clock_faults(file: &Source) -> Vec<Fault> {
    let code = blanked(&file.text, Blank::StringsAndComments);
    let reads = code.lines().enumerate().filter(|(_, line)| {
        file.path != "src/clock.rs"
            && ["Instant::now", "SystemTime::now"].iter().any(|call| line.contains(call))
    });
    reads.map(|(at, _)| format!("{}:{}: use clock::now", file.path, at + 1)).collect()
}

fn open_end_faults(file: &Source) -> Vec<Fault> {
    let text = blanked(&file.text, Blank::Strings);
    let marks = ["TODO", "FIXME", "XXX", "todo!", "unimplemented!"];
    let found = text.lines().enumerate().filter(|(_, line)| {
        marks.iter().any(|mark| {
            line.split(*mark).nth(1).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
        })
    });
    found.map(|(at, line)| format!("{}:{}: {}", file.path, at + 1, line.trim())).collect()
}

fn document_faults(file: &Source) -> Vec<Fault> {
    let begins = file.text.starts_with("//! ");
    (!begins).then(|| format!("{}: does not begin with //!", file.path)).into_iter().collect()
}

fn size_faults(file: &Source) -> Vec<Fault> {
    let (lines_len, code_len) = lens(file);
    let own = LONG_FILES.iter().find(|(path, _)| *path == file.path);
    let is_fault = own.map_or_else(|| is_long(file), |(_, len_max)| lines_len > *len_max);
    let fault = || format!("{}: {lines_len} lines, {code_len} without tests", file.path);
    is_fault.then(fault).into_iter().collect()
}

fn is_long(file: &Source) -> bool {
    let (lines_len, code_len) = lens(file);
    lines_len > LINES_MAX || code_len > CODE_LINES_MAX
}

/// Lines of a file, and of its code where it is not all tests.
fn lens(file: &Source) -> (usize, usize) {
    let is_test = !file.path.starts_with("src/") || file.path.contains("test");
    let code = file.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    (file.text.lines().count(), if is_test { 0 } else { code.lines().count() })
}

fn dead_file_faults(files: &[Source]) -> Vec<Fault> {
    let is_declared = |path: &str| {
        let stem =
            path.strip_suffix("/mod.rs").or_else(|| path.strip_suffix(".rs")).expect("a Rust file");
        let (folder, name) = stem.rsplit_once('/').expect("a file in src");
        let parents = match folder {
            "src" => vec!["src/lib.rs".to_owned(), "src/main.rs".to_owned()],
            _ => vec![format!("{folder}.rs"), format!("{folder}/mod.rs")],
        };
        let declaration = format!("mod {name};");
        files.iter().any(|file| parents.contains(&file.path) && file.text.contains(&declaration))
    };
    let modules = files.iter().filter(|file| !["src/lib.rs", "src/main.rs"].contains(&&*file.path));
    let dead = modules.filter(|file| !is_declared(&file.path));
    dead.map(|file| format!("{}: no module declares it", file.path)).collect()
}

fn index_faults<'a>(index: &str, documents: impl IntoIterator<Item = &'a str>) -> Vec<Fault> {
    let named = documents.into_iter().filter_map(|path| path.strip_prefix("docs/"));
    let missing = named.filter(|name| *name != "README.md" && !index.contains(&format!("({name}")));
    missing.map(|name| format!("docs/README.md does not link to {name}")).collect()
}

fn machine_faults(file: &Source) -> Vec<Fault> {
    let places = [
        concat!("/wo", "rk/"),
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/Us", "ers/"),
    ];
    let named = file
        .text
        .lines()
        .enumerate()
        .filter(|(_, line)| places.iter().any(|place| line.contains(place)));
    named.map(|(at, line)| format!("{}:{}: {}", file.path, at + 1, line.trim())).collect()
}

fn bench_faults(manifest: &str, paths: &[&str]) -> Vec<Fault> {
    let manifest: toml::Table = manifest.parse().expect("Cargo.toml is TOML");
    let benches =
        manifest.get("bench").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let declared: Vec<String> = benches
        .iter()
        .filter_map(|bench| Some(format!("benches/{}.rs", bench.get("name")?.as_str()?)))
        .collect();
    let missing = declared.iter().filter(|path| !paths.contains(&path.as_str()));
    let strange = paths.iter().filter(|path| !declared.iter().any(|known| known == *path));
    missing
        .map(|path| format!("{path} is declared and not there"))
        .chain(strange.map(|path| format!("{path} is not declared")))
        .collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Blank {
    Strings,
    StringsAndComments,
}

/// Rust text with the insides of strings, and of comments where asked, made spaces. Lines stay.
fn blanked(text: &str, blank: Blank) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (len, hides) = match first {
            '/' if rest.starts_with("//") => {
                (rest.find('\n').unwrap_or(rest.len()), blank == Blank::StringsAndComments)
            }
            'r' if !out.ends_with(is_word)
                && (rest.starts_with("r\"") || rest.starts_with("r#")) =>
            {
                (
                    raw_string_len(rest).unwrap_or(1),
                    rest.starts_with("r\"") || rest.starts_with("r#\""),
                )
            }
            '"' => (string_len(rest), true),
            '\'' => (char_len(rest), false),
            _ => (first.len_utf8(), false),
        };
        let (taken, behind) = rest.split_at(len);
        if hides {
            out.extend(taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            out.push_str(taken);
        }
        rest = behind;
    }
    out
}

fn string_len(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let ends = *c == '"' && !is_escaped;
        is_escaped = *c == '\\' && !is_escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

/// `None` for a raw identifier.
fn raw_string_len(text: &str) -> Option<usize> {
    let hashes = text[1..].len() - text[1..].trim_start_matches('#').len();
    let start = 1 + hashes;
    text[start..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let at = text[start + 1..].find(&end)?;
    Some(start + 1 + at + end.len())
}

/// Of a character literal, or of the quote alone where it begins a lifetime.
fn char_len(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some(_)) => text[3..].find('\'').map_or(1, |at| 3 + at + 1),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

#[test]
fn strings_and_comments_are_blanked() {
    let text = "a(\"x\\\"y\", 'b', '\"', r#\"p\"q\"#, b'\\'') // don't\nb<'a>(\"z\")";
    let strings = "a(      , 'b', '\"',         , b'\\'') // don't\nb<'a>(   )";
    assert_eq!(blanked(text, Blank::Strings), strings);
    let code = "a(      , 'b', '\"',         , b'\\'')         \nb<'a>(   )";
    assert_eq!(blanked(text, Blank::StringsAndComments), code);
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c| !is_word(c)).filter(|word| !word.is_empty())
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn of_each(files: &[Source], faults: impl Fn(&Source) -> Vec<Fault>) -> Vec<Fault> {
    assert!(!files.is_empty(), "no files were found");
    files.iter().flat_map(faults).collect()
}

#[track_caller]
fn assert_none(faults: Vec<Fault>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn rust_files(folders: &[&str]) -> Vec<Source> {
    files_of(folders, &["rs"])
}

/// The files under the folders with one of the extensions, but for what is made by running tests.
fn files_of(folders: &[&str], extensions: &[&str]) -> Vec<Source> {
    let made = ["target", "corpus", "artifacts", "seeds", "media"];
    let mut files = Vec::new();
    let mut pending: Vec<PathBuf> =
        folders.iter().map(|folder| root().join(folder)).filter(|path| path.exists()).collect();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a folder can be listed");
            let paths = entries.map(|entry| entry.expect("an entry can be read").path());
            pending.extend(paths.filter(|path| {
                !(path.parent().is_some_and(|parent| parent.starts_with(root().join("tests")))
                    && made.iter().any(|name| path.ends_with(name)))
            }));
        } else if extensions.contains(&path.extension().map_or("", |e| e.to_str().unwrap_or("?"))) {
            let from_root = path.strip_prefix(root()).expect("it lies under the root");
            let text = fs::read_to_string(&path).expect("a text");
            files.push(Source { path: from_root.display().to_string(), text });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}
