//! The algorithm of the HorizontalPodAutoscaler, as in kube-controller-manager (Kubernetes 1.34,
//! pkg/controller/podautoscaler: replica_calculator.go and horizontal.go): the ratio with its
//! tolerance, pods without metrics, policies, stabilization.

/// A ratio that differs from 1 by less than this has no effect
/// (`--horizontal-pod-autoscaler-tolerance`).
const TOLERANCE: f64 = 0.1;

/// How many replicas may be added or removed in how many seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Policy {
    Percent(f64, f64),
    Pods(usize, f64),
}

/// An autoscaler's `spec.behavior` and limits. Policies are combined by `selectPolicy: Max`.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) min: usize,
    pub(crate) max: usize,
    pub(crate) up: Vec<Policy>,
    pub(crate) down: Vec<Policy>,
    /// Seconds of `scaleDown.stabilizationWindowSeconds`. For `scaleUp` it is 0.
    pub(crate) stabilisation: f64,
}

/// An autoscaler's memory.
#[derive(Default)]
pub(crate) struct Autoscaler {
    recommended: Vec<(f64, usize)>,
    changed: Vec<(f64, isize)>,
}

/// The number of replicas that one metric asks for: `values` of the pods that report it, and
/// `missing` pods that do not, because they are starting.
pub(crate) fn desired(current: usize, values: &[f64], missing: usize, target: f64) -> usize {
    if values.is_empty() {
        return current;
    }
    let sum: f64 = values.iter().sum();
    let ratio = sum / values.len() as f64 / target;
    if missing == 0 {
        let changed = (ratio - 1.0).abs() > TOLERANCE;
        return if changed { ceil(ratio * values.len() as f64) } else { current };
    }
    // A pod without the metric counts as idle if the others ask for more replicas, and as fully
    // used if they ask for fewer.
    let all = values.len() + missing;
    let assumed = if ratio < 1.0 { missing as f64 * target } else { 0.0 };
    let guarded = (sum + assumed) / all as f64 / target;
    if (guarded - 1.0).abs() <= TOLERANCE || (ratio < 1.0) != (guarded < 1.0) {
        return current;
    }
    let count = ceil(guarded * all as f64);
    // The correction must not reverse the direction.
    if (guarded < 1.0 && count > current) || (guarded > 1.0 && count < current) { current } else { count }
}

/// Rounds up, ignoring the rounding error of a product.
fn ceil(x: f64) -> usize {
    (x - 1e-9).ceil().max(0.0) as usize
}

impl Autoscaler {
    /// The number of replicas that there should be at `now`, given the number that the metrics ask
    /// for.
    pub(crate) fn decide(&mut self, spec: &Spec, now: f64, current: usize, asked: usize) -> usize {
        self.recommended.retain(|&(at, _)| at > now - spec.stabilisation);
        self.recommended.push((now, asked));
        // Scales down only as far as every recommendation of the window allows.
        let highest = self.recommended.iter().map(|&(_, n)| n).max().unwrap_or(asked);
        let stabilised = if asked < current { highest.min(current) } else { asked };
        let limited = if stabilised > current {
            let limit = spec.up.iter().map(|&policy| self.limit(policy, now, current, 1.0)).max();
            stabilised.min(limit.unwrap_or(usize::MAX))
        } else {
            let limit = spec.down.iter().map(|&policy| self.limit(policy, now, current, -1.0)).min();
            stabilised.max(limit.unwrap_or(0))
        };
        let next = limited.clamp(spec.min, spec.max);
        if next != current {
            self.changed.push((now, next as isize - current as isize));
        }
        next
    }

    /// How far a policy lets the number of replicas move from its value when the policy's period
    /// began.
    fn limit(&self, policy: Policy, now: f64, current: usize, sign: f64) -> usize {
        let (Policy::Percent(_, period) | Policy::Pods(_, period)) = policy;
        let same = |change: isize| (change > 0) == (sign > 0.0);
        let since: isize = self.changed.iter().filter(|&&(at, n)| at > now - period && same(n)).map(|&(_, n)| n).sum();
        let start = (current as isize - since) as f64;
        match policy {
            Policy::Percent(percent, _) if sign > 0.0 => ceil(start * (1.0 + percent / 100.0)),
            Policy::Percent(percent, _) => (start * (1.0 - percent / 100.0)).floor() as usize,
            Policy::Pods(pods, _) => (start + sign * pods as f64).max(0.0) as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec {
            min: 1,
            max: 100,
            up: vec![Policy::Percent(100.0, 15.0), Policy::Pods(4, 15.0)],
            down: vec![Policy::Percent(50.0, 60.0)],
            stabilisation: 300.0,
        }
    }

    #[test]
    fn the_documentations_examples() {
        // "if the current metric value is 200m, and the desired value is 100m, the number of
        // replicas will be doubled", and halved at 50m.
        assert_eq!(desired(4, &[200.0; 4], 0, 100.0), 8);
        assert_eq!(desired(4, &[50.0; 4], 0, 100.0), 2);
        assert_eq!(desired(4, &[109.0; 4], 0, 100.0), 4, "within the tolerance");
        assert_eq!(desired(10, &[111.0; 10], 0, 100.0), 12);
    }

    #[test]
    fn pods_without_metrics_dampen() {
        // Four pods at 200 % and four that start count as eight at 100 %.
        assert_eq!(desired(8, &[200.0; 4], 4, 100.0), 8);
        assert_eq!(desired(8, &[400.0; 4], 4, 100.0), 16);
        assert_eq!(desired(8, &[20.0; 4], 4, 100.0), 5, "pods that start count as fully used");
        assert_eq!(desired(8, &[], 8, 100.0), 8);
    }

    #[test]
    fn up_by_the_larger_policy_and_down_by_the_window() {
        let (spec, mut hpa) = (spec(), Autoscaler::default());
        assert_eq!(hpa.decide(&spec, 0.0, 2, 50), 6, "four pods are more than a doubling");
        assert_eq!(hpa.decide(&spec, 5.0, 6, 50), 6, "the period is not over");
        assert_eq!(hpa.decide(&spec, 16.0, 6, 50), 12, "now a doubling is more");
        assert_eq!(hpa.decide(&spec, 100.0, 12, 3), 12, "in the last five minutes, 50 were recommended");
        assert_eq!(hpa.decide(&spec, 320.0, 12, 3), 6, "half of them per minute");
        assert_eq!(hpa.decide(&spec, 330.0, 6, 3), 6);
        assert_eq!(hpa.decide(&spec, 381.0, 6, 0), 3);
        assert_eq!(hpa.decide(&spec, 700.0, 3, 0), 1, "never below the minimum");
    }
}
