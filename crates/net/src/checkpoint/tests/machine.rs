//! Pickles by hand: what is refused, what costs nothing.

use crate::checkpoint::machine::read;
use crate::checkpoint::value::Value;

fn refusal(pickle: &[u8]) -> String {
    match read(pickle.to_vec()) {
        Ok(values) => panic!("{pickle:?} was read: {values:?}"),
        Err(refusal) => refusal,
    }
}

#[test]
fn nothing_but_data_is_read() {
    let system = b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.";
    assert_eq!(refusal(system), "byte 2 of data.pkl: asks for posix.system, which is not allowed");
    let stacked = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.";
    assert_eq!(
        refusal(stacked),
        "byte 18 of data.pkl: asks for builtins.eval, which is not allowed"
    );
    assert_eq!(
        refusal(b"\x80\x02(S'x'\nios\nsystem\n."),
        "byte 3 of data.pkl: opcode 'S' (0x53) is not allowed"
    );
    assert_eq!(refusal(b"\x80\x02\x82\x01."), "byte 2 of data.pkl: opcode 0x82 is not allowed");
}

#[test]
fn broken_pickles_are_refused_without_a_panic() {
    for pickle in [
        &b""[..],
        b"\x80",
        b"\x80\x07.",
        b"\x80\x02X\xff\xff\xff\xffabc.",
        b"\x80\x02.",
        b"\x80\x02N(\x85.",
        b"\x80\x02t.",
        b"\x80\x02h\x05.",
        b"\x80\x02Na.",
        b"\x80\x02}(Nu.",
        b"\x80\x02NQ.",
        b"\x80\x02)Q.",
        b"\x80\x02NNR.",
        b"\x80\x02NNb.",
        b"\x80\x02\x8a\xff.",
        b"\x80\x02X\x01\x00\x00\x00\xff.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02ctorch\nFloatStorage",
    ] {
        refusal(pickle);
    }
}

#[test]
fn cycles_and_depth_cost_nothing() {
    // A list that holds itself, and a million lists inside each other.
    assert!(read(b"\x80\x02]q\x00h\x00a.".to_vec()).is_ok());
    let mut deep = b"\x80\x02".to_vec();
    deep.resize(1_000_002, b']');
    deep.resize(1_999_999 + 2, b'a');
    deep.push(b'.');
    let values = read(deep).unwrap();
    assert_eq!(values.list.len(), 1_000_003);
    // A slot number far beyond the number of slots.
    assert!(read(b"\x80\x02Nr\xff\xff\xff\xff.".to_vec()).is_ok());
}

#[test]
fn every_cut_of_a_pickle_is_refused() {
    let whole = b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00b(\x8a\x01\xff\
        G\x3f\xf8\x00\x00\x00\x00\x00\x00N\x88tu.";
    let values = read(whole.to_vec()).unwrap();
    assert_eq!(values.count_at(values.root, "a"), Some(1));
    let Value::Tuple(items) = values.get(values.entry(values.root, "b").unwrap()) else {
        panic!("no tuple")
    };
    let kinds: Vec<String> = items.iter().map(|i| format!("{:?}", values.get(*i))).collect();
    assert_eq!(kinds, ["Int(-1)", "Float(1.5)", "None", "Bool(true)"]);
    for length in 0..whole.len() {
        refusal(&whole[..length]);
    }
}

#[test]
fn a_pickle_that_only_grows_is_refused() {
    let grow = |opcode: u8, message: &str| {
        let mut pickle = b"\x80\x02N".to_vec();
        pickle.resize(9 << 20, opcode);
        let said = refusal(&pickle);
        assert!(said.ends_with(message), "{said}");
    };
    grow(b'}', "more than 8388608 values");
    grow(b'(', "too many open marks");
}

#[test]
fn a_few_bytes_that_say_a_billion_values_are_no_json() {
    // Ten lists, each of ten times the one before
    let mut pickle = b"\x80\x02]q\x00X\x01\x00\x00\x00aa".to_vec();
    for level in 1..=10u8 {
        pickle.extend([b']', b'q', level, b'(']);
        (0..10).for_each(|_| pickle.extend([b'h', level - 1]));
        pickle.push(b'e');
    }
    pickle.push(b'.');
    let values = read(pickle).unwrap();
    assert_eq!(values.json(values.root), None);
    // Level 3 is 1111 lists and 1000 texts: it and the list of texts are among the first values.
    let small = (0..values.list.len() as u32).filter_map(|id| values.json(id)).next_back().unwrap();
    assert_eq!(small.as_array().map(Vec::len), Some(10));
    let cycle = read(b"\x80\x02]q\x00h\x00a.".to_vec()).unwrap();
    assert_eq!(cycle.json(cycle.root), None);
}
