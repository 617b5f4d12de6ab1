//! Which policy a world has: the scheme with its bank, the model's rules, or both.

use crate::plain::{BOUNDS as PLAIN, Bounds, POLICY as RULES};
use crate::server::POLICY as SCHEME;
use crate::{bank, distributions};

/// What limits allow where there are limits: some are met, and most is not refused.
pub(crate) const BOUNDS: Bounds = Bounds { day: (500, 16), sliding: 1_800 };

/// Of the worlds with rules every other one has the office, too.
pub(crate) fn has_both(seed: u64) -> bool {
    seed % 8 == 7
}

/// The rules of the model with other limits.
fn rules_of(bounds: &Bounds) -> String {
    let money = |cents: i128| format!("\"{}.{:02}\"", cents / 100, cents % 100);
    let day = |of: &Bounds| format!("sum_max = {}, count_max = {}", money(of.day.0), of.day.1);
    let sliding = |of: &Bounds| format!("sum_max = {}", money(of.sliding));
    let [days, slidings] = [[day(&PLAIN), day(bounds)], [sliding(&PLAIN), sliding(bounds)]];
    assert!(RULES.contains(&days[0]) && RULES.contains(&slidings[0]));
    RULES.replace(&days[0], &days[1]).replace(&slidings[0], &slidings[1])
}

/// Whether the rules are in force, whether there is an office, and the policy's text.
pub(crate) fn policy_of(seed: u64) -> (bool, bool, String) {
    let (rules, clears) = (seed % 4 == 3, seed % 4 != 3 || has_both(seed));
    let office = SCHEME.to_owned() + bank::POLICY + &distributions::policy();
    let policies = [(rules, rules_of(&BOUNDS)), (clears, office)];
    (rules, clears, policies.into_iter().filter(|(is_there, _)| *is_there).map(|(_, policy)| policy).collect())
}
