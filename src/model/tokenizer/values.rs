//! What a chat template makes while it renders. minijinja counts instructions and the bytes of texts; here lists and maps
//! are counted, which it makes of one another for nothing: one that holds another twice, again and again, stands for a
//! tree without end, and one that is made of parts of another, again and again, is walked by recursion.
//!
//! So each list and map that an instruction makes is replaced by a copy that is bounded and paid for, and each that is
//! compared is paid for.

use minijinja::machinery::{Instruction, Instructions};
use minijinja::value::{Kwargs, Tuple, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, functions};

/// Most items of a list or map with all in it.
const ITEMS_MAX: usize = 1 << 14;
/// How deep lists and maps are nested, at most.
const DEPTH_MAX: usize = 16;
/// Most bytes of all texts in a list or map.
const TEXT_BYTES_MAX: usize = 1 << 22;

/// Functions that only [`bounded`] calls: no template can name them.
const BOUND: &str = "(bound)";
const DATA: &str = "(data)";
const COUNT: &str = "(count)";

/// Adds the functions that [`bounded`] instructions call.
pub(super) fn add_functions(environment: &mut Environment) {
    environment.add_function(BOUND, |state: &State, value: ValueOrKwargs| match is_list_or_map(&value) {
        true => copy(state, &value),
        false => Ok(value.into()),
    });
    environment.add_function(DATA, |state: &State, value: Value| copy(state, &value));
    environment.add_function(COUNT, |state: &State, value: ValueOrKwargs| match is_list_or_map(&value) {
        true => copy(state, &value).map(|_| true),
        false => Ok(true),
    });
    environment.add_function("namespace", |state: &State, values: Kwargs| {
        let mut pairs = Vec::new();
        for name in values.args() {
            pairs.push((name, copy(state, &values.get::<Value>(name)?)?));
        }
        functions::namespace(Some(Value::from(Kwargs::from_iter(pairs)).into()))
    });
}

/// The same instructions, with a bound on what they make and compare.
pub(super) fn bounded<'s>(template: &Instructions<'s>) -> Instructions<'s> {
    use Instruction::*;
    let call = |name| CallFunction(name, Some(1));
    let old = || (0..).map_while(|at| template.get(at));
    let (mut all, mut starts) = (Vec::new(), Vec::new());
    for (at, instruction) in (0..).zip(old()) {
        starts.push(all.len() as u32);
        let line = template.get_line(at).unwrap_or_default() as u16;
        let mut add = |instruction| all.push((instruction, line));
        match instruction {
            SetAttr(_) => [Swap, call(DATA), Swap].map(&mut add).into_iter().collect(),
            Eq | Ne | Gt | Gte | Lt | Lte | In | CompareAndPreserve(_) | PerformTest(..) | GetItem => {
                [DupTop, call(COUNT), DiscardTop].map(&mut add).into_iter().collect()
            }
            _ => (),
        }
        add(instruction.clone());
        match instruction {
            CallFunction("namespace", _) => {}
            Add | Mul | Slice | BuildList(_) | BuildTuple(_) | BuildMap(_) | ApplyFilter(..)
            | CallFunction(..) | CallMethod(..) | CallObject(_) => add(call(BOUND)),
            _ => {}
        }
    }
    starts.push(all.len() as u32);
    let mut new = Instructions::new(template.name(), template.source());
    for (mut instruction, line) in all {
        match &mut instruction {
            Iterate(to)
            | Jump(to)
            | JumpIfFalse(to)
            | JumpIfFalseOrPop(to)
            | JumpIfTrueOrPop(to)
            | BuildMacro(_, to, _) => *to = starts[*to as usize],
            _ => {}
        }
        new.add_with_line(instruction, line);
    }
    new
}

fn is_list_or_map(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map)
}

/// What is left of the bounds of one value.
struct Room {
    items: usize,
    text_bytes: usize,
}

/// A copy that shares nothing but texts. Fails for a value that exceeds the bounds, and for one that is not data.
fn copy(state: &State, value: &Value) -> Result<Value, Error> {
    let mut room = Room { items: ITEMS_MAX, text_bytes: TEXT_BYTES_MAX };
    copy_within(state, value, &mut room, 0)
}

fn copy_within(state: &State, value: &Value, room: &mut Room, depth: usize) -> Result<Value, Error> {
    if depth > DEPTH_MAX {
        return Err(refused("lists and maps are nested too deep"));
    }
    let mut pay = |items: usize, text: &Value| {
        let text_bytes = text.as_str().map_or(0, str::len);
        room.items = room.items.checked_sub(items)?;
        // The bytes of a text that is no part of a list or map are paid for by minijinja.
        room.text_bytes = room.text_bytes.checked_sub(if depth > 0 { text_bytes } else { 0 })?;
        Some(())
    };
    let exceeds = || refused("a list or map is too large");
    pay(1, value).ok_or_else(exceeds)?;
    state.consume_fuel(1)?;
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.map(|item| copy_within(state, &item, room, depth + 1));
            let items: Vec<Value> = items.collect::<Result<_, _>>()?;
            Ok(if value.is_tuple() { Tuple::from(items).into() } else { items.into() })
        }
        ValueKind::Map => {
            let pair = |key: Value| {
                let (item, key) = (value.get_item(&key)?, copy_within(state, &key, room, depth + 1)?);
                Ok::<_, Error>((key, copy_within(state, &item, room, depth + 1)?))
            };
            let pairs: Vec<_> = value.try_iter()?.map(pair).collect::<Result<_, _>>()?;
            Ok(Value::from_pairs(pairs))
        }
        ValueKind::Plain | ValueKind::Invalid => {
            Err(refused("a value is neither data nor a function that is called"))
        }
        _ => Ok(value.clone()),
    }
}

fn refused(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}
