//! Dependency descriptors against a plain reading of the AV1 RTP payload specification, appendix A, and a stream of them
//! through the reader that follows structures.

use rtc::codec::dependency::{Descriptor, Indication, LayerReader, Structure};

use crate::input::Input;

/// Descriptors one after another, each behind its length; structures stay known as a receiver would have it.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut known: Option<Box<Structure>> = None;
    let mut plain_known: Option<PlainStructure> = None;
    let mut reader = LayerReader::new();
    for _ in 0..100 {
        if input.is_empty() {
            return;
        }
        let value = input.short();
        let parsed = Descriptor::parse(value, known.as_deref());
        let expected = plain_reading(value, plain_known.as_ref());
        assert_eq!(parsed.is_ok(), expected.is_some(), "{parsed:?} where {expected:?} was read");
        // A look changes nothing, and a reading is what a look right after it sees.
        let before = reader.look(value);
        assert_eq!(reader.look(value), before);
        let _ = reader.read(value);
        let (Ok(descriptor), Some(plain)) = (parsed, expected) else { continue };
        compare(&descriptor, &plain, plain.structure.as_ref().or(plain_known.as_ref()));
        if let Some(structure) = descriptor.structure {
            assert!(structure.target_count() >= 1 && !structure.templates.is_empty());
            assert_eq!(structure.targets_within(7, 7), structure.all_targets());
            assert!(structure.protected_by.iter().all(|chain| *chain < structure.chain_count));
            known = Some(structure);
            plain_known = plain.structure;
        }
    }
}

fn compare(descriptor: &Descriptor, plain: &Plain, structure: Option<&PlainStructure>) {
    assert_eq!((descriptor.start, descriptor.end), (plain.start, plain.end));
    assert_eq!(descriptor.frame_number, plain.number);
    assert_eq!((descriptor.spatial, descriptor.temporal), plain.layer);
    assert_eq!(descriptor.references.as_slice(), plain.references);
    assert_eq!(descriptor.chains.as_slice(), plain.chains);
    assert_eq!(descriptor.structure.is_some(), plain.structure.is_some());
    assert_eq!(descriptor.active_targets, plain.active);
    let targets = structure.map_or(0, |structure| structure.targets);
    for (target, told) in (0..targets).zip(&plain.indications) {
        let expected = match told {
            0 => Indication::NotPresent,
            1 => Indication::Discardable,
            2 => Indication::Switch,
            _ => Indication::Required,
        };
        assert_eq!(descriptor.indications.of(target), expected, "decode target {target}");
    }
}

#[derive(Debug, Clone, Default)]
struct PlainTemplate {
    layer: (u8, u8),
    indications: Vec<u8>,
    references: Vec<u16>,
    chains: Vec<u8>,
}

#[derive(Debug, Clone)]
struct PlainStructure {
    offset: u8,
    targets: u8,
    chains: u32,
    templates: Vec<PlainTemplate>,
}

#[derive(Debug)]
struct Plain {
    start: bool,
    end: bool,
    number: u16,
    layer: (u8, u8),
    indications: Vec<u8>,
    references: Vec<u16>,
    chains: Vec<u8>,
    structure: Option<PlainStructure>,
    active: Option<u32>,
}

/// `dependency_descriptor(sz)`, line by line.
fn plain_reading(value: &[u8], known: Option<&PlainStructure>) -> Option<Plain> {
    let all: Vec<bool> =
        value.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect();
    let mut bits = all.into_iter();
    let mut f = |count: u32| (0..count).try_fold(0_u32, |value, _| Some(value * 2 + u32::from(bits.next()?)));
    let (start, end, id, number) = (f(1)? == 1, f(1)? == 1, f(6)?, f(16)?);
    let mut flags = [false; 5];
    if value.len() > 3 {
        for flag in &mut flags {
            *flag = f(1)? == 1;
        }
    }
    let [has_structure, has_active, own_indications, own_references, own_chains] = flags;
    let structure = if has_structure { Some(plain_structure(&mut f)?) } else { None };
    let used = structure.as_ref().or(known);
    let mut active = structure.as_ref().map(|structure| u32::MAX >> (32 - u32::from(structure.targets)));
    if has_active {
        active = Some(f(u32::from(used?.targets))?);
    }
    let used = used?;
    let template = used.templates.get((id as usize + 64 - usize::from(used.offset)) % 64)?;
    let mut plain = Plain {
        start,
        end,
        number: number as u16,
        layer: template.layer,
        indications: template.indications.clone(),
        references: template.references.clone(),
        chains: template.chains.clone(),
        active,
        structure: None,
    };
    if own_indications {
        plain.indications = (0..used.targets).map(|_| Some(f(2)? as u8)).collect::<Option<_>>()?;
    }
    if own_references {
        plain.references.clear();
        loop {
            let size = f(2)?;
            if size == 0 {
                break;
            }
            plain.references.push(f(4 * size)? as u16 + 1);
        }
    }
    if own_chains {
        plain.chains = (0..used.chains).map(|_| Some(f(8)? as u8)).collect::<Option<_>>()?;
    }
    // More references than anybody uses are refused.
    if plain.references.len() > rtc::codec::layers::References::MAX {
        return None;
    }
    plain.structure = structure;
    Some(plain)
}

fn plain_structure(f: &mut impl FnMut(u32) -> Option<u32>) -> Option<PlainStructure> {
    let offset = f(6)? as u8;
    let targets = f(5)? as u8 + 1;
    let mut templates = Vec::new();
    let mut layer = (0_u8, 0_u8);
    loop {
        templates.push(PlainTemplate { layer, ..PlainTemplate::default() });
        match f(2)? {
            0 => {}
            1 => layer.1 += 1,
            2 => layer = (layer.0 + 1, 0),
            _ => break,
        }
        if layer.0 > 3 || layer.1 > 7 || templates.len() > 63 {
            return None;
        }
    }
    for template in &mut templates {
        template.indications = (0..targets).map(|_| Some(f(2)? as u8)).collect::<Option<_>>()?;
    }
    for template in &mut templates {
        while f(1)? == 1 {
            template.references.push(f(4)? as u16 + 1);
        }
        if template.references.len() > rtc::codec::layers::References::MAX {
            return None;
        }
    }
    let chains = ns(f, u32::from(targets) + 1)?;
    if chains > 0 {
        for _ in 0..targets {
            ns(f, chains)?;
        }
        for template in &mut templates {
            template.chains = (0..chains).map(|_| Some(f(4)? as u8)).collect::<Option<_>>()?;
        }
    }
    if f(1)? == 1 {
        for _ in 0..=templates.iter().map(|template| template.layer.0).max().unwrap_or(0) {
            f(32)?;
        }
    }
    Some(PlainStructure { offset, targets, chains, templates })
}

/// `ns(n)` of the AV1 specification, section 4.10.7.
fn ns(f: &mut impl FnMut(u32) -> Option<u32>, n: u32) -> Option<u32> {
    let w = 32 - n.leading_zeros();
    let m = (1 << w) - n;
    let v = f(w - 1)?;
    if v < m { Some(v) } else { Some(v * 2 - m + f(1)?) }
}
