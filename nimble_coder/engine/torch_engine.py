"""The portable engine: one thread that schedules, runs and answers, step after step."""

import logging
import threading
import time
from collections import deque
from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from build_engine.engine_config import TORCH_ENGINES, WEIGHTS, EngineConfig, EngineConfigError
from build_engine.hardware import has_driver
from build_engine.lookahead import LookaheadConfig, portable_limit
from build_engine.precision import INT8
from nimble_coder.contract.bounds import MOST_DRAFTS
from nimble_coder.contract.request import Guide, QueueFullError, Request, RequestError
from nimble_coder.contract.response import Response
from nimble_coder.engine.admission import Admission
from nimble_coder.engine.budget import ROWS_ON_CPU, ROWS_ON_GPU, Budget, StepCosts
from nimble_coder.engine.compiled import find_step
from nimble_coder.engine.cores import Cores
from nimble_coder.engine.counters import Counters
from nimble_coder.engine.drafter import SUFFIXES, WINDOWED, Texts, make_drafter
from nimble_coder.engine.followers import Followers
from nimble_coder.engine.form import Form, Forms
from nimble_coder.engine.infill import InfillMarks
from nimble_coder.engine.kept_texts import Keeper, TextsFile
from nimble_coder.engine.kv_cache import KVCache
from nimble_coder.engine.memory import GIB, SHARE, slot_bytes, slots_within
from nimble_coder.engine.model import Platform
from nimble_coder.engine.native import CompiledStep, takes
from nimble_coder.engine.pool import Pools, PoolTexts
from nimble_coder.engine.protocol import Statistics
from nimble_coder.engine.runner import ModelRunner
from nimble_coder.engine.scheduler import Decode, Scheduler, Work
from nimble_coder.engine.sequence import Limits, Sequence
from nimble_coder.text.added_tokens import added_tokens

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TorchEngineOptions:
    """What the runtime chooses about an engine that is already built."""

    max_queue_size: int = 128
    threads: int | None = None
    """Of a step on a CPU; None takes the cores that Triton and the gateway leave (`cores.py`)."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU where there is one that PyTorch can use."""
    max_seq_len: int | None = None
    """Shorter sequences than the engine was built for, so that more of them fit into the memory."""
    tokenizer: Path | None = None
    """The directory with `tokenizer.json`, without which no output can be held to a form, and less is drafted."""
    reuse_kv_cache: bool = True
    """Keep the entries of ended sequences for prompts that begin alike."""
    drafts: Path | None = None
    """The directory in which the texts that draft for later requests outlive the engine; None keeps them in memory."""
    kv_cache_fraction: float = SHARE
    """Of the memory that is free beside the weights, for keys and values."""
    step_costs: StepCosts | None = None
    """Another machine's, by which drafts go instead of by those measured here: for a benchmark."""


class TorchEngine:
    """Implements `nimble_coder.engine.protocol.Engine` on a platform: the compiled step, or PyTorch."""

    def __init__(self, engine_dir: Path, lookahead: LookaheadConfig, options: TorchEngineOptions) -> None:
        """Loads an engine; raises `EngineConfigError` where the directory or (W, N, G) does not fit."""
        config = EngineConfig.read(engine_dir)
        if config.version not in TORCH_ENGINES:
            raise EngineConfigError(
                f"{engine_dir} is version {config.version}, this runs {TORCH_ENGINES[0]}: build again"
            )
        if lookahead.max_draft_tokens != config.max_draft_len:
            raise EngineConfigError(
                f"lookahead {lookahead} drafts {lookahead.max_draft_tokens} tokens a step, "
                f"the engine at {engine_dir} was built for {config.max_draft_len}: they must be equal"
            )
        self._config = config
        self._lookahead = lookahead
        self._options = options
        self._max_seq_len = min(config.max_seq_len, options.max_seq_len or config.max_seq_len)
        self._limits = Limits(self._max_seq_len, rows_per_step(lookahead))
        longest = min(config.max_input_len, self._max_seq_len - 1)
        self._admission = Admission(lookahead, config.shape.vocab_size, longest, self._max_seq_len)
        control = added_tokens(options.tokenizer) if options.tokenizer else {}
        self._forms = Forms(options.tokenizer, config.shape.vocab_size, control) if options.tokenizer else None
        self._infills = InfillMarks.among(control)
        self._followers = Followers.among(control)
        size = (engine_dir / WEIGHTS).stat().st_size
        platform = choose_platform(config, size, lookahead, options)
        cache = self._make_cache(size, platform)
        self._slots = cache.free_slots
        self._runner = ModelRunner(platform.load(engine_dir, config.shape, cache))
        rows = ROWS_ON_GPU if platform.on_gpu else ROWS_ON_CPU
        self._costs = options.step_costs or StepCosts.measure(self._runner.seconds, rows)
        self._scheduler = Scheduler(cache, config.max_num_tokens, Budget(self._costs))
        self._usual_drafter = WINDOWED if platform.on_gpu else SUFFIXES
        self._lock = threading.Condition()
        self._pools = Pools()
        self._keeper = self._keep_texts(config.shape.vocab_size)
        self._counters = Counters()
        self._arrivals: deque[Sequence] = deque()
        self._live: dict[int, Sequence] = {}
        self._outbox: list[Response] = []
        self._answered = threading.Condition()
        self._ids = count(1)
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="torch-engine", daemon=True)
        self._thread.start()

    def _make_cache(self, weights: int, platform: Platform) -> KVCache:
        """As many slots of full length as fit beside the weights; raises `EngineConfigError` where a GPU holds none.

        On a CPU a slot takes no memory that it does not use, so one is tried in any case.
        """
        config, length = self._config, self._max_seq_len
        # A step writes the root and its drafts behind the last committed token, up to W + N - 3 positions ahead.
        capacity = length + rows_per_step(self._lookahead)
        one = slot_bytes(config.shape, capacity, config.kv_cache_dtype)
        free = platform.free_memory()
        slots = slots_within(free, weights, one, config.max_batch_size, self._options.kv_cache_fraction)
        told = (
            f"keys and values of a sequence of {length} tokens take {one / GIB:.2f} GiB, {free / GIB:.1f} GiB are free"
        )
        if not slots and platform.on_gpu:
            raise EngineConfigError(
                f"{told}, of which the weights take {weights / GIB:.1f}: set NIMBLE_MAX_MODEL_LEN lower"
            )
        if slots < config.max_batch_size:
            kept = f"room for {max(slots, 1)} at once instead of {config.max_batch_size}; the others wait"
            more = "a lower NIMBLE_MAX_MODEL_LEN, or a higher NIMBLE_KV_CACHE_FRACTION, makes room for more"
            logger.warning("%s: %s (%s)", told, kept, more)
        else:
            logger.info("%s: room for %d at once", told, slots)
        reuse, dtype = self._options.reuse_kv_cache, config.kv_cache_dtype
        return platform.make_cache(config.shape, max(slots, 1), capacity, dtype, reuse)

    def _keep_texts(self, vocab_size: int) -> Keeper | None:
        """Has the pools of an earlier engine again, and keeps them for a later one, where that is asked for."""
        if self._options.drafts is None or self._options.tokenizer is None:
            return None
        file = TextsFile(self._options.drafts, self._options.tokenizer / "tokenizer.json")
        for pool, text in file.read(vocab_size):
            self._pools.add(pool, text)
        return Keeper(file, self._all_texts)

    def _all_texts(self) -> PoolTexts:
        with self._lock:
            return self._pools.all()

    def enqueue(self, request: Request) -> int:
        """See `Engine.enqueue`."""
        with self._lock:
            self._check_room()  # before anything is made that a full queue has no place for
        config = self._admission.admit(request)
        form = self._open(request.guide, request.ends) if request.guide else None
        drafter = make_drafter(request, config, self._texts(request), self._usual_drafter)
        sequence = Sequence(next(self._ids), request, drafter, self._limits, form)
        with self._lock:
            self._check_room()
            self._live[sequence.request_id] = sequence
            self._arrivals.append(sequence)
            self._lock.notify()
        return sequence.request_id

    def _check_room(self) -> None:
        if self._stopping or self._waiting >= self._options.max_queue_size:
            raise QueueFullError(self._options.max_queue_size)

    @property
    def _waiting(self) -> int:
        """Requests that wait for a slot. Those that nobody wants any more leave with the next step, and keep nobody out
        until then."""
        live, running = self._live.values(), self._scheduler.running
        return sum(not each.cancelled for each in live) - sum(not each.cancelled for each in running)

    def _texts(self, request: Request) -> Texts:
        own = self._infills.in_file_order(request.input_ids) if self._infills else request.input_ids
        with self._lock:
            others = self._pools.texts(request.draft_pool) if request.draft_pool else ()
        return Texts(own, others, self._followers)

    def prepare(self, guide: Guide) -> None:
        """See `Engine.prepare`."""
        self._open(guide, ())

    def _open(self, guide: Guide, ends: Collection[int]) -> Form:
        if self._forms is None:
            raise RequestError("input guided_decoding_guide is not supported by an engine without a tokenizer")
        return self._forms.open(guide, ends)

    def responses(self, timeout: float) -> list[Response]:
        """See `Engine.responses`."""
        with self._answered:
            if not self._outbox:
                self._answered.wait(timeout)
            taken, self._outbox = self._outbox, []
        return taken

    def cancel(self, request_id: int) -> None:
        """See `Engine.cancel`."""
        with self._lock:
            if sequence := self._live.get(request_id):
                sequence.cancelled = True

    def statistics(self) -> Statistics:
        """See `Engine.statistics`."""
        with self._lock:
            running = list(self._scheduler.running)
            waiting = len(self._live) - len(running)
        counters = self._counters
        return Statistics(
            active_requests=len(running),
            waiting_requests=waiting,
            max_requests=self._slots,
            kv_tokens_used=sum(sequence.cached for sequence in running),
            kv_tokens_max=self._slots * self._max_seq_len,
            prompt_tokens=counters.prompt_tokens,
            reused_prompt_tokens=counters.reused_prompt_tokens,
            iterations=counters.iterations,
            generated_tokens=counters.generated_tokens,
            accepted_draft_tokens=counters.accepted_draft_tokens,
            draft_tokens=counters.draft_tokens,
            request_steps=counters.request_steps,
            step_seconds=counters.step_seconds,
            drafting={source: replace(counts) for source, counts in counters.drafting.items()},
            usual_drafter=self._usual_drafter,
        )

    @property
    def step_costs(self) -> StepCosts:
        """The curve that decides which drafts are worth their rows; it follows what the engine sees."""
        return self._costs

    def time_steps(self, rows: SequenceOf[int], sequences: int, cached: int) -> StepCosts:
        """What a step costs by its rows where so many sequences share them, each with so many tokens in the cache.

        For benchmarks, before the first request: it writes over what the slots hold. Raises `RuntimeError` later.
        """
        with self._lock:  # no request arrives meanwhile
            if self._counters.iterations or self._live:
                raise RuntimeError("steps are timed before the first request")
            return StepCosts.measure(lambda count: self._runner.seconds(count, sequences, cached), rows)

    def shutdown(self) -> None:
        """See `Engine.shutdown`."""
        with self._lock:
            self._stopping = True
            for sequence in self._live.values():
                sequence.cancelled = True
            self._lock.notify()
        self._thread.join()
        if self._keeper:
            self._keeper.close()

    def _loop(self) -> None:
        while self._take_arrivals():
            self._scheduler.cancel()
            self._answer()
            if work := self._scheduler.schedule():
                self._step(work)
                self._answer()

    def _take_arrivals(self) -> bool:
        """Waits for something to do; False once everything has been answered after `shutdown`."""
        with self._lock:
            while not (self._arrivals or self._scheduler.has_work or self._stopping):
                self._lock.wait()
            while self._arrivals:
                self._scheduler.add(self._arrivals.popleft())
            return self._scheduler.has_work or not self._stopping

    def _step(self, work: list[Work]) -> None:
        started = time.perf_counter()
        try:
            outcome = self._runner.run(work)
        except Exception as error:
            # Only what took part in the step is lost, and each of its clients is told.
            logger.exception("a step of %d sequences failed", len(work))
            for piece in work:
                piece.sequence.fail(error)
        else:
            for piece, outputs in zip(work, outcome, strict=True):
                self._advance(piece, outputs)
        seconds = time.perf_counter() - started
        self._counters.add(work, seconds)
        trees = [piece.tree for piece in work if isinstance(piece, Decode)]
        if len(trees) == len(work):
            self._costs.observe(sum(map(len, trees)), seconds)

    def _advance(self, piece: Work, outputs: list[int] | Exception) -> None:
        """Takes in one sequence's part of a step; where that failed or fails, the others go on."""
        try:
            if isinstance(outputs, Exception):
                raise outputs
            self._scheduler.advance(piece, outputs)
        except Exception as error:
            logger.exception("request %d failed in a step", piece.sequence.request_id)
            piece.sequence.fail(error)

    def _answer(self) -> None:
        """Sends what is new, and lets the finished go."""
        finished = self._scheduler.retire()
        ready = [r for s in [*self._scheduler.running, *finished] if (r := s.take_response())]
        if finished:
            with self._lock:
                for sequence in finished:
                    del self._live[sequence.request_id]
                    self._keep(sequence)
        if ready:
            with self._answered:
                self._outbox.extend(ready)
                self._answered.notify_all()

    def _keep(self, sequence: Sequence) -> None:
        """Puts what a request read and wrote into its pool."""
        if sequence.request.draft_pool and sequence.drafter.corpus:
            self._pools.add(sequence.request.draft_pool, sequence.drafter.corpus)


def rows_per_step(lookahead: LookaheadConfig) -> int:
    """The most rows of one sequence in a step, whichever way it drafts."""
    return max(portable_limit(lookahead).tokens_per_step, MOST_DRAFTS + 1)


def choose_device(asked: str) -> str:
    """What was asked for; with `auto` a GPU that the kernels run on, else the CPU."""
    if asked != "auto":
        return asked
    if not has_driver():
        return "cpu"
    from nimble_coder.engine.pytorch import has_fitting_gpu

    return "cuda" if has_fitting_gpu() else "cpu"


def no_int8_kv_cache(config: EngineConfig, device: str, is_compiled: bool) -> str:
    """Why an engine with keys and values in 8 bits cannot run, and what to do."""
    if is_compiled:
        return f"keys of {config.shape.head_dim} dimensions have no int8 KV cache: build it without --int8-kv-cache"
    where = "a GPU" if device == "cuda" else "this CPU, whose step is not compiled"
    return (
        f"an engine with an int8 KV cache does not run on {where}: set NIMBLE_ENGINE_DEVICE=cpu where the step is "
        f"compiled, or build it without --int8-kv-cache"
    )


def choose_platform(
    config: EngineConfig, weights: int, lookahead: LookaheadConfig, options: TorchEngineOptions
) -> Platform:
    """On a CPU the compiled step, where it can run the model; else PyTorch, which nothing loads otherwise. Raises
    `EngineConfigError` where neither runs the engine."""
    device = choose_device(options.device)
    compiled = find_step() if device == "cpu" else []
    libraries = compiled if takes(config.shape, config.dtype) else []
    if config.kv_cache_dtype == INT8 and not libraries:
        raise EngineConfigError(no_int8_kv_cache(config, device, bool(compiled)))
    cores = Cores.here()
    asked = options.threads or cores.threads(weights)
    threads = min(asked, cores.affinity)
    if asked > threads and device == "cpu":
        logger.warning("the step cannot have %d threads: this process may run on %d processors", asked, threads)
    where = f"{threads} threads ({cores})" if device == "cpu" else device
    made = libraries[0].name if libraries else "PyTorch's operators" if device == "cpu" else "CUDA graphs"
    logger.info("the step runs on %s, on %s", made, where)
    if libraries:
        return CompiledStep(libraries[0], threads)
    from nimble_coder.engine.pytorch import PyTorch

    longest_path = max(portable_limit(lookahead).ngram_size - 1, MOST_DRAFTS)
    return PyTorch(device, threads, rows_per_step(lookahead), longest_path)
