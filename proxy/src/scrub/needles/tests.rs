use proptest::prelude::*;

use super::*;

fn needles(all: &[String]) -> Needles {
    Needles::new(all.iter().map(|needle| needle.clone().into_bytes().into()).collect())
}

/// Which bytes of a text of this length lie in these places.
fn covered(places: &[(usize, usize)], length: usize) -> Vec<bool> {
    (0..length).map(|at| places.iter().any(|(start, end)| (*start..*end).contains(&at))).collect()
}

#[test]
fn no_more_of_a_secret_is_in_the_automaton_than_what_names_its_kind() {
    let found = needles(&["sk-ant-0123456789".to_owned(), "abc".to_owned()]);
    assert_eq!(found.anchors.all, [b"abc".to_vec(), b"sk-a".to_vec()]);
}

#[test]
fn a_field_with_nothing_of_a_secret_is_told_by_its_pairs_and_one_with_its_first_two_letters_by_the_automaton()
{
    let anchors = Anchors::new(std::iter::once(&b"sk-live-0123"[..]), Case::Any);
    let looks = |text: &[u8]| (anchors.pairs.stand_in(text), anchors.stand_in(text));
    assert_eq!(looks(b"application/json"), (false, false));
    assert_eq!(looks(b"a task"), (true, false));
    assert_eq!(looks(b"its SK-Liver"), (true, true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn one_pass_finds_what_a_search_for_each_needle_at_each_place_finds(
        all in prop::collection::vec(prop_oneof!["[ab]{1,4}", "[a-c]{3,9}"], 0..6),
        text in "[a-c]{0,30}",
        within in 0_usize..31,
        has_automaton in any::<bool>(),
    ) {
        let mut needles = needles(&all);
        if !has_automaton {
            needles.anchors.automaton = None;
        }
        let found = needles.search(text.as_bytes(), within);
        let from = |at: &usize| *at < within.min(text.len());
        let places: Vec<(usize, usize)> = all.iter().flat_map(|needle| {
            (0..text.len()).filter(from).filter(|at| text[*at..].starts_with(needle.as_str())).map(|at| (at, at + needle.len()))
        }).collect();
        let ends = |at: &usize| all.iter().any(|needle| needle.len() > text.len() - at && needle.starts_with(&text[*at..]));
        let begun = (0..text.len()).filter(from).find(ends).map_or(0, |at| text.len() - at);
        prop_assert_eq!(found.begun, begun);
        prop_assert_eq!(covered(&found.places, text.len()), covered(&places, text.len()));
        prop_assert!(found.places.windows(2).all(|two| two[0].1 < two[1].0));
        if within >= text.len() {
            // What a search for each needle alone finds, place behind place, is among it.
            let alone: Vec<(usize, usize)> = all.iter().flat_map(|needle| {
                memchr::memmem::find_iter(text.as_bytes(), needle).map(|at| (at, at + needle.len()))
            }).collect();
            let (alone, found) = (covered(&alone, text.len()), covered(&found.places, text.len()));
            prop_assert!(alone.iter().zip(found).all(|(alone, found)| !*alone || found));
        }
    }

    #[test]
    fn a_text_in_which_no_beginning_stands_holds_no_needle_in_any_case(
        needle in "[a-cA-C]{1,6}", text in "[a-cA-C]{0,30}",
    ) {
        let anchors = Anchors::new(std::iter::once(needle.as_bytes()), Case::Any);
        let holds = text.to_ascii_lowercase().contains(&needle.to_ascii_lowercase());
        prop_assert!(anchors.stand_in(text.as_bytes()) || !holds);
        prop_assert!(!anchors.stand_in(b"xyz"));
        let unmade = Anchors { automaton: None, ..anchors };
        prop_assert!(unmade.stand_in(text.as_bytes()), "unknown is not clean");
    }
}
