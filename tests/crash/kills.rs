//! A run is killed with SIGKILL, over and over, at any operation and at any moment. Then it
//! finishes with the same bytes.

use std::thread;
use std::time::{Duration, Instant};

use plm_testkit::SplitMix64;

use crate::damage::damage;
use crate::effort::Effort;
use crate::points::{Fault, Manner};
use crate::scene::Scene;
use crate::subject::{Ended, How};
use crate::tell;

const MANNERS: [Manner; 3] = [Manner::KillBefore, Manner::KillHalf, Manner::KillAfter];
/// The most tries of a run that are killed.
const MOST_KILLS: u64 = 3;

/// The moment at which a try is killed.
#[derive(Clone, Copy, Debug)]
enum Death {
    At(Fault),
    After(Duration),
}

/// The operations and the time of an undisturbed run.
#[derive(Clone, Copy)]
struct Span {
    operations: u64,
    time: Duration,
}

impl Span {
    fn measure() -> Self {
        let operations = Scene::count_operations(How::PLAIN);
        let scene = Scene::new();
        let started = Instant::now();
        scene.run(How::PLAIN, None).assert_success();
        Self {
            operations,
            time: started.elapsed(),
        }
    }

    fn random_death(self, random: &mut SplitMix64) -> Death {
        if random.below(2) == 0 {
            return self.random_moment(random);
        }
        Death::At(Fault {
            at: 1 + random.below(self.operations),
            manner: MANNERS[random.below(3) as usize],
        })
    }

    fn random_moment(self, random: &mut SplitMix64) -> Death {
        Death::After(self.time.mul_f64(random.next_f64()))
    }
}

pub(crate) fn killed_at_any_operation(effort: Effort) {
    let span = Span::measure();
    let mut tally = Tally::default();
    for (turn, at) in effort.points(span.operations, 12).into_iter().enumerate() {
        for manner in effort.kinds(&MANNERS, turn) {
            let mut random = SplitMix64::new(at * 4 + turn as u64);
            tally.survive(&mut random, span, Death::At(Fault { at, manner }));
        }
    }
    tally.tell("at operations", span);
}

pub(crate) fn killed_at_any_moment(effort: Effort) {
    let span = Span::measure();
    let mut tally = Tally::default();
    for seed in 0..effort.times(8, 200) {
        let mut random = SplitMix64::new(seed);
        let death = span.random_moment(&mut random);
        tally.survive(&mut random, span, death);
    }
    tally.tell("at moments", span);
}

pub(crate) fn damaged_segments_are_made_again(effort: Effort) {
    // At this time there are segments, but the run is not finished.
    let late = Fault {
        at: Scene::count_operations(How::PLAIN) * 2 / 3,
        manner: Manner::KillBefore,
    };
    for seed in 0..effort.times(6, 60) {
        let mut random = SplitMix64::new(1_000 + seed);
        let mut scene = Scene::new();
        let ended = scene.run(How::PLAIN, Some(late));
        assert!(ended.was_killed());
        for _ in 0..=random.below(3) {
            assert!(damage(&mut scene, &mut random), "there are segments");
        }
        finish(&scene, &mut random);
        let aside = scene.files();
        let aside = aside
            .iter()
            .filter(|path| path.to_string_lossy().ends_with(".damaged"));
        assert_eq!(aside.count(), scene.damaged.len());
    }
}

/// Each part is killed once, and so is the merge.
pub(crate) fn killed_parts(effort: Effort) {
    let tries = [How::part(0, 2), How::part(1, 2), How::part(0, 0)];
    let count = Scene::count_operations(tries[0]);
    for (turn, at) in effort.points(count, 4).into_iter().enumerate() {
        for manner in effort.kinds(&MANNERS, turn) {
            let scene = Scene::new();
            for how in tries {
                // A merge may take fewer operations. Then it is not killed.
                scene.run(how, Some(Fault { at, manner }));
                scene.assert_sound();
                scene.run(how, None).assert_success();
            }
            scene.assert_finished();
        }
    }
}

/// Counts of what happened to the runs.
#[derive(Default)]
struct Tally {
    runs: u64,
    kills: u64,
    damaged: u64,
    /// One kill cost this many rows at most.
    most_lost: i64,
}

impl Tally {
    /// Kills a run, kills it again when it resumes, and lets it finish.
    fn survive(&mut self, random: &mut SplitMix64, span: Span, first: Death) {
        let mut scene = Scene::new();
        self.runs += 1;
        let mut death = first;
        for _ in 0..=random.below(MOST_KILLS) {
            let how = random_how(random);
            let (rows_before, ends) = (scene.durable_rows(), scene.log_ends());
            let ended = die(&scene, how, death);
            if !ended.was_killed() {
                ended.assert_success();
                break;
            }
            self.kills += 1;
            scene.assert_sound();
            let progress = scene.progress_since(&ends);
            let kept = scene.durable_rows() - rows_before;
            let lost = progress.written_rows as i64 - kept as i64;
            let bound = how.ranks * (how.segment_rows - 1 + progress.batch_rows);
            assert!(lost <= bound as i64, "{lost} rows were lost: {death:?}");
            self.most_lost = self.most_lost.max(lost);
            if random.below(3) == 0 && damage(&mut scene, random) {
                self.damaged += 1;
            }
            death = span.random_death(random);
        }
        finish(&scene, random);
    }

    fn tell(&self, of: &str, span: Span) {
        let Self {
            runs,
            kills,
            damaged,
            most_lost,
        } = self;
        tell(&format!(
            "{runs} runs killed {kills} times {of}; {damaged} segments damaged in between; a kill cost at most \
             {most_lost} rows; a run takes {} operations and {:.2} s",
            span.operations,
            span.time.as_secs_f64()
        ));
    }
}

fn random_how(random: &mut SplitMix64) -> How {
    How {
        ranks: 1 + random.below(3),
        batch_tokens: 60 + random.below(60),
        segment_rows: 3 + random.below(6),
        ..How::PLAIN
    }
}

fn die(scene: &Scene, how: How, death: Death) -> Ended {
    match death {
        Death::At(fault) => scene.run(how, Some(fault)),
        Death::After(time) => {
            let running = scene.start(how, None);
            thread::sleep(time);
            running.kill()
        }
    }
}

/// The last, undisturbed try. It computes the missing rows and nothing else.
fn finish(scene: &Scene, random: &mut SplitMix64) {
    let (kept, ends) = (scene.durable_rows(), scene.log_ends());
    scene.run(random_how(random), None).assert_success();
    scene.assert_finished();
    let computed = scene.progress_since(&ends).written_rows;
    assert_eq!(kept + computed, scene.reference.records.len() as u64);
}
