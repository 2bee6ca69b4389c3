//! The tape: which operator made a tensor from which, and how gradients go back.
//!
//! A gradient rule is written with the same recorded tensor functions as the
//! forward pass. With `create_graph` the saved tensors that it sees are the
//! recorded ones, so that what it computes can be differentiated again;
//! without, they are detached and nothing is recorded. Rules live with their
//! operators in `src/ops`.
//!
//! Three designs were weighed for "is this being recorded?": a global switch
//! (state that a service cannot share), a flag on every operator (noise in
//! every signature), and what is here: a tensor knows its node, an operator
//! records when an input has one.

mod check;

pub use check::{CheckOptions, grad_check, grad_grad_check};

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::ops;
use crate::ops::half::wide;
use crate::profile::{self, Phase};
use crate::tensor::Tensor;

/// Gives nodes identities that grow along the tape, so that descending order is
/// a valid order for the backward pass. It carries no other state: results do
/// not depend on its value.
static NEXT_NODE: AtomicU64 = AtomicU64::new(0);

/// One gradient per input of the operator, `None` where none flows.
pub(crate) type Gradients = Vec<Option<Tensor>>;
type Rule = Box<dyn Fn(&Backward) -> Result<Gradients> + Send + Sync>;

/// A tensor's place on the tape.
pub struct Node {
    id: u64,
    op: &'static str,
    edges: Vec<Option<Arc<Node>>>,
    saved: Vec<Option<Tensor>>,
    /// The output without its node, which would be a reference cycle.
    output: Option<Tensor>,
    rule: Option<Rule>,
    stamp: Option<Stamp>,
}

/// What version a parameter had when it entered the tape.
struct Stamp {
    name: String,
    current: Arc<AtomicU64>,
    seen: u64,
}

/// What an operator keeps for its gradient rule.
#[derive(Clone, Copy)]
pub(crate) struct Save {
    /// Bit i: input i.
    pub inputs: u32,
    pub output: bool,
}

impl Save {
    pub const NONE: Self = Self::inputs(0);
    pub const OUTPUT: Self = Self {
        inputs: 0,
        output: true,
    };
    pub const ALL: Self = Self::inputs(u32::MAX);

    pub const fn inputs(bits: u32) -> Self {
        Self {
            inputs: bits,
            output: false,
        }
    }

    pub const fn and_output(self) -> Self {
        Self {
            output: true,
            ..self
        }
    }
}

/// What a gradient rule is given.
pub(crate) struct Backward<'a> {
    node: &'a Arc<Node>,
    /// Gradient of the loss with respect to the operator's output.
    pub grad: Tensor,
    needs: Vec<bool>,
    /// Whether what the rule computes will itself be differentiated.
    pub create_graph: bool,
    /// What gradients of each input are known already, from operators after this one.
    earlier: RefCell<Vec<Option<Tensor>>>,
}

impl Backward<'_> {
    /// The sum of the gradients of input `i` that other operators gave, if there are
    /// any and nothing is recorded. Whoever takes it adds it to the gradient that it
    /// returns, in its own pass, and saves an operator that does nothing else.
    pub fn take_earlier(&self, i: usize) -> Option<Tensor> {
        self.earlier.borrow_mut().get_mut(i).and_then(Option::take)
    }

    /// Input `i` as it was in the forward pass. It must have been saved.
    pub fn input(&self, i: usize) -> Result<Tensor> {
        let saved = self.node.saved.get(i).and_then(Option::as_ref);
        let saved = saved.ok_or_else(|| Error::op(self.node.op, "internal: input not saved"))?;
        Ok(self.as_asked(saved, self.node.edges[i].clone()))
    }

    /// The operator's own output. It must have been saved.
    pub fn output(&self) -> Result<Tensor> {
        let saved = self.node.output.as_ref();
        let saved = saved.ok_or_else(|| Error::op(self.node.op, "internal: output not saved"))?;
        Ok(self.as_asked(saved, Some(self.node.clone())))
    }

    /// Whether input `i` is a cast of something else, or that in another shape: its
    /// gradient may then have that one's dtype already.
    pub fn is_cast(&self, i: usize) -> bool {
        let mut edge = self.node.edges.get(i).and_then(Option::as_ref);
        while let Some(node) = edge.filter(|node| node.op == "reshape") {
            edge = node.edges.first().and_then(Option::as_ref);
        }
        edge.is_some_and(|node| node.op == "cast")
    }

    /// Whether there is an input `i` and it wants a gradient.
    pub fn wants(&self, i: usize) -> bool {
        self.needs.get(i).copied().unwrap_or(false)
    }

    /// `f()` if there is an input `i` and it wants a gradient.
    pub fn when(&self, i: usize, f: impl FnOnce() -> Result<Tensor>) -> Result<Option<Tensor>> {
        self.wants(i).then(f).transpose()
    }

    fn as_asked(&self, saved: &Tensor, node: Option<Arc<Node>>) -> Tensor {
        if self.create_graph {
            saved.clone().with_node(node)
        } else {
            saved.clone()
        }
    }
}

impl Node {
    fn next_id() -> u64 {
        NEXT_NODE.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn leaf() -> Arc<Self> {
        Arc::new(Self {
            id: Self::next_id(),
            op: "variable",
            edges: Vec::new(),
            saved: Vec::new(),
            output: None,
            rule: None,
            stamp: None,
        })
    }

    /// The leaf of a parameter at its present version.
    pub(crate) fn parameter(name: &str, version: &Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self {
            id: Self::next_id(),
            op: "parameter",
            edges: Vec::new(),
            saved: Vec::new(),
            output: None,
            rule: None,
            stamp: Some(Stamp {
                name: name.to_owned(),
                current: version.clone(),
                seen: version.load(Ordering::Acquire),
            }),
        })
    }

    fn check_version(&self, op: &'static str) -> Result<()> {
        match &self.stamp {
            Some(s) if s.current.load(Ordering::Acquire) != s.seen => Err(Error::StaleParameter {
                op,
                name: s.name.clone(),
            }),
            _ => Ok(()),
        }
    }
}

impl Drop for Node {
    /// Frees a long tape without recursion, which would overflow the stack.
    fn drop(&mut self) {
        let mut pending: Vec<Arc<Node>> = Vec::new();
        let take = |node: &mut Node, pending: &mut Vec<Arc<Node>>| {
            pending.extend(node.edges.drain(..).flatten());
            node.saved.clear();
        };
        take(self, &mut pending);
        while let Some(node) = pending.pop() {
            if let Some(mut sole) = Arc::into_inner(node) {
                take(&mut sole, &mut pending);
            }
        }
    }
}

/// Puts `output` on the tape if any input is on it.
pub(crate) fn record(
    op: &'static str,
    inputs: &[&Tensor],
    output: Tensor,
    save: Save,
    rule: impl Fn(&Backward) -> Result<Gradients> + Send + Sync + 'static,
) -> Tensor {
    if inputs.iter().all(|t| t.node.is_none()) {
        return output;
    }
    let saved = inputs
        .iter()
        .enumerate()
        .map(|(i, t)| (save.inputs >> i & 1 == 1).then(|| t.detach()))
        .collect();
    let node = Node {
        id: Node::next_id(),
        op,
        edges: inputs.iter().map(|t| t.node.clone()).collect(),
        saved,
        output: save.output.then(|| output.detach()),
        rule: Some(Box::new(rule)),
        stamp: None,
    };
    output.with_node(Some(Arc::new(node)))
}

/// Gradients of the sum of `outputs` (each weighted by the tensor of its shape
/// in `weights`, if given) with respect to each of `inputs`; `None` for an
/// input that no output depends on.
///
/// With `create_graph` the gradients are recorded and can be differentiated
/// again.
///
/// # Errors
/// An output that is not recorded or, without a weight, has more than one
/// element; a parameter that was updated since the forward pass; an operator on
/// the way that has no gradient.
pub fn grad(
    outputs: &[&Tensor],
    weights: Option<&[&Tensor]>,
    inputs: &[&Tensor],
    create_graph: bool,
) -> Result<Vec<Option<Tensor>>> {
    profile::phase(Phase::Backward, || {
        gradients(outputs, weights, inputs, create_graph)
    })
}

fn gradients(
    outputs: &[&Tensor],
    weights: Option<&[&Tensor]>,
    inputs: &[&Tensor],
    create_graph: bool,
) -> Result<Vec<Option<Tensor>>> {
    let targets: Vec<u64> = inputs
        .iter()
        .map(|t| match &t.node {
            Some(n) => Ok(n.id),
            None => Err(Error::op("grad", "an input is not a variable or parameter")),
        })
        .collect::<Result<_>>()?;
    if weights.is_some_and(|w| w.len() != outputs.len()) {
        return Err(Error::op("grad", "one weight per output is needed"));
    }

    let pending = roots(outputs, weights)?;
    let wanted: HashSet<u64> = targets.iter().copied().collect();
    let mut found: HashMap<u64, Tensor> = HashMap::new();
    walk(pending, &wanted, create_graph, &mut |id, gradient| {
        found.insert(id, gradient);
        Ok(())
    })?;
    Ok(targets.iter().map(|id| found.get(id).cloned()).collect())
}

/// Gradients of `loss`, a tensor with one element, with respect to `leaves`, each given to
/// `take` with its place among them as soon as it is complete, that is, after the rules of
/// all operators that the leaf went into. A leaf that the loss does not depend on is not
/// given.
///
/// The tape is taken apart on the way: what an operator saved goes once its rule has run,
/// unless somebody else holds the tape too. So `take` may change the parameter whose
/// gradient it is given, and where it keeps no gradient, few live at once.
///
/// # Errors
/// Those of [`grad`], and what `take` returns; some gradients were given by then.
pub(crate) fn backward(
    loss: Tensor,
    leaves: &[Arc<Node>],
    take: &mut dyn FnMut(usize, Tensor) -> Result<()>,
) -> Result<()> {
    let places: HashMap<u64, usize> = leaves.iter().zip(0..).map(|(n, i)| (n.id, i)).collect();
    if places.len() < leaves.len() {
        return Err(Error::usage(
            "a gradient of the same parameter is asked for twice",
            "name a shared parameter once",
        ));
    }
    let wanted: HashSet<u64> = places.keys().copied().collect();
    profile::phase(Phase::Backward, || {
        let pending = roots(&[&loss], None)?;
        drop(loss);
        walk(pending, &wanted, false, &mut |id, gradient| {
            take(places[&id], gradient)
        })
    })
}

/// Gradients that are on their way to nodes.
type Pending = BTreeMap<u64, (Arc<Node>, Tensor)>;

/// The gradients with which a backward pass begins.
fn roots(outputs: &[&Tensor], weights: Option<&[&Tensor]>) -> Result<Pending> {
    let mut pending = Pending::new();
    for (i, output) in outputs.iter().enumerate() {
        let Some(node) = &output.node else {
            return Err(Error::op(
                "grad",
                "an output does not depend on any variable",
            ));
        };
        let seed = match weights {
            Some(w) if w[i].shape() == output.shape() => ops::cast(w[i], output.dtype())?,
            Some(w) => {
                let shapes = [w[i].shape(), output.shape()];
                return Err(Error::shape("grad", &shapes, "weight and output differ"));
            }
            None if output.elements() == 1 => {
                Tensor::full_on(1.0, output.shape(), output.dtype(), &output.device())?
            }
            None => {
                let problem = "an output of several elements needs a weight";
                return Err(Error::shape("grad", &[output.shape()], problem));
            }
        };
        accumulate(&mut pending, node, seed)?;
    }
    Ok(pending)
}

/// Runs gradient rules from `pending` back, and gives the gradient of each node in `wanted`
/// to `take` as soon as nothing can be added to it any more.
fn walk(
    mut pending: Pending,
    wanted: &HashSet<u64>,
    create_graph: bool,
    take: &mut dyn FnMut(u64, Tensor) -> Result<()>,
) -> Result<()> {
    let detached = |gradient: Tensor| match create_graph {
        true => gradient,
        false => gradient.detach(),
    };
    let (useful, mut uses) = reaching(pending.values().map(|(n, _)| n), wanted);
    while let Some((id, (node, gradient))) = pending.pop_last() {
        let gradient = detached(gradient);
        let Some(rule) = &node.rule else {
            // A leaf that some operator gave no gradient, although it could have.
            if wanted.contains(&id) {
                take(id, gradient)?;
            }
            continue;
        };
        if wanted.contains(&id) {
            take(id, gradient.clone())?;
        }
        let needs: Vec<bool> = node
            .edges
            .iter()
            .map(|e| e.as_ref().is_some_and(|n| useful.contains(&n.id)))
            .collect();
        if !needs.contains(&true) {
            continue;
        }
        for edge in node.edges.iter().flatten() {
            edge.check_version(node.op)?;
        }
        let earlier = earlier_of(&node, &needs, &pending, create_graph);
        let known: Vec<bool> = earlier.iter().map(Option::is_some).collect();
        let backward = Backward {
            node: &node,
            grad: gradient,
            needs: needs.clone(),
            create_graph,
            earlier: RefCell::new(earlier),
        };
        let gradients = profile::gradient_of(node.op, || rule(&backward))?;
        let taken: Vec<bool> = (backward.earlier.into_inner().iter().zip(known))
            .map(|(left, known)| known && left.is_none())
            .collect();
        for (i, ((edge, gradient), needed)) in
            node.edges.iter().zip(gradients).zip(needs).enumerate()
        {
            if let (Some(edge), Some(gradient), true) = (edge, gradient, needed) {
                if taken[i] {
                    pending.insert(edge.id, (edge.clone(), gradient));
                } else {
                    accumulate(&mut pending, edge, gradient)?;
                }
            }
        }
        let mut complete = Vec::new();
        for leaf in node.edges.iter().flatten().map(|e| e.id) {
            if let Some(left) = uses.get_mut(&leaf) {
                *left -= 1;
                if *left == 0 {
                    complete.push(leaf);
                }
            }
        }
        // What the operator saved goes before anybody changes a parameter that it saw.
        drop(node);
        for leaf in complete {
            if let Some((_, gradient)) = pending.remove(&leaf) {
                take(leaf, detached(gradient))?;
            }
        }
    }
    Ok(())
}

/// For each input of `node` that wants a gradient and is given only once, what
/// [`Backward::take_earlier`] may take.
fn earlier_of(
    node: &Node,
    needs: &[bool],
    pending: &Pending,
    create_graph: bool,
) -> Vec<Option<Tensor>> {
    let ids = node.edges.iter().map(|e| e.as_ref().map(|n| n.id));
    let ids: Vec<Option<u64>> = ids.collect();
    let of = |(id, &needed): (&Option<u64>, &bool)| {
        let once = ids.iter().filter(|other| *other == id).count() == 1;
        let (_, gradient) = pending.get(&(*id)?)?;
        (needed && once && !create_graph).then(|| gradient.detach())
    };
    ids.iter().zip(needs).map(of).collect()
}

fn accumulate(pending: &mut Pending, node: &Arc<Node>, gradient: Tensor) -> Result<()> {
    let sum = match pending.remove(&node.id) {
        // What one operator rounded to a cast's dtype, another may have left.
        Some((_, earlier)) if earlier.dtype() != gradient.dtype() => {
            ops::add(&wide(&earlier)?, &wide(&gradient)?)?
        }
        Some((_, earlier)) => ops::add_onto(earlier, &gradient)?,
        None => gradient,
    };
    pending.insert(node.id, (node.clone(), sum));
    Ok(())
}

/// The nodes from which one of `wanted` can be reached, so that no gradient is
/// computed that nobody asked for; and of each leaf in `wanted` how often it went into
/// an operator.
fn reaching<'a>(
    roots: impl Iterator<Item = &'a Arc<Node>>,
    wanted: &HashSet<u64>,
) -> (HashSet<u64>, HashMap<u64, usize>) {
    let mut seen: BTreeMap<u64, &Arc<Node>> = BTreeMap::new();
    let mut stack: Vec<&Arc<Node>> = roots.collect();
    while let Some(node) = stack.pop() {
        if seen.insert(node.id, node).is_none() {
            stack.extend(node.edges.iter().flatten());
        }
    }
    let mut useful = wanted.clone();
    let mut uses = HashMap::new();
    // Ascending identities: every node comes after the nodes that it came from.
    for (id, node) in seen {
        for edge in node.edges.iter().flatten() {
            if useful.contains(&edge.id) {
                useful.insert(id);
            }
            if edge.rule.is_none() && wanted.contains(&edge.id) {
                *uses.entry(edge.id).or_default() += 1;
            }
        }
    }
    (useful, uses)
}
