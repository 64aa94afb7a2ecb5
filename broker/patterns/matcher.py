"""Matches whole texts against an expression, one step for each character: a machine of all places where one can be in the expression at once
(K. Thompson, 1968), whose steps are remembered, so that most of them are one look into a dictionary.

No text can take more than `STEPS_MAX` of the dear kind of step, and no expression more memory than `PROGRAM_MAX` places and `STATES_MAX` states with
`MOVES_MAX` steps each.
"""

from __future__ import annotations

from broker.patterns.charset import Chars
from broker.patterns.syntax import Anchor, Choice, Node, One, PatternError, Place, Repeat, Sequence, parse

PROGRAM_MAX = 2_000
STATES_MAX = 1_000
MOVES_MAX = 256
STEPS_MAX = 50_000
"""Places looked at while steps are made that are not remembered yet; some 20 ms."""

_EDGE, _NEWLINE, _WORD, _OTHER = range(4)
_MATCH = 0


def _kind(char: str) -> int:
    if char == "\n":
        return _NEWLINE
    return _WORD if char == "_" or (char.isascii() and char.isalnum()) else _OTHER


def _holds(place: Place, before: int, after: int) -> bool:
    match place:
        case Place.TEXT_START:
            return before == _EDGE
        case Place.TEXT_END:
            return after == _EDGE
        case Place.LINE_START:
            return before in (_EDGE, _NEWLINE)
        case Place.LINE_END:
            return after in (_EDGE, _NEWLINE)
        case Place.WORD_EDGE:
            return (before == _WORD) != (after == _WORD)
        case Place.NO_WORD_EDGE:
            return (before == _WORD) == (after == _WORD)


class _Program:
    """The expression as numbered places. Of each: which characters lead on (None: it is passed without one), the condition, and where to.

    Place 0 is the end. Invariant: at most PROGRAM_MAX places.
    """

    __slots__ = ("_emitted", "chars", "condition", "start", "then")

    def __init__(self, node: Node) -> None:
        self.chars: list[Chars | None] = [None]
        self.condition: list[Place | None] = [None]
        self.then: list[tuple[int, ...]] = [()]
        self._emitted = 0  # nodes, also those without a place of their own
        self.start = self._emit(node, _MATCH)

    def _add(self, then: tuple[int, ...], chars: Chars | None = None, condition: Place | None = None) -> int:
        self.chars.append(chars)
        self.condition.append(condition)
        self.then.append(then)
        return len(self.then) - 1

    def _emit(self, node: Node, then: int) -> int:
        """Where `node` begins, if it goes on at `then`."""
        self._emitted += 1
        if len(self.then) >= PROGRAM_MAX or self._emitted > 2 * PROGRAM_MAX:
            raise PatternError(f"the expression is too large when its repetitions are written out; at most {PROGRAM_MAX} places")
        match node:
            case One(chars):
                return self._add((then,), chars)
            case Anchor(place):
                return self._add((then,), condition=place)
            case Sequence(parts):
                for part in reversed(parts):
                    then = self._emit(part, then)
                return then
            case Choice(parts):
                return self._add(tuple(self._emit(part, then) for part in parts))
            case Repeat(part, low, high):
                return self._emit_repeat(part, low, high, then)

    def _emit_repeat(self, part: Node, low: int, high: int, then: int) -> int:
        if high < 0:
            loop = self._add((then,))
            self.then[loop] = (self._emit(part, loop), then)
            then = loop
        else:
            end = then
            for _ in range(high - low):
                then = self._add((self._emit(part, then), end))
        for _ in range(low):
            then = self._emit(part, then)
        return then


class _State:
    """Where one can be: `places` not yet passed on from, and what kind of character came before. `moves`: what is known of the next step."""

    __slots__ = ("before", "matches", "moves", "places")

    def __init__(self, places: frozenset[int], before: int) -> None:
        self.places = places
        self.before = before
        self.moves: dict[str, _State] = {}
        self.matches: bool | None = None


class Pattern:
    """One expression; not for several threads. Raises PatternError when it can not be read or is too large.

    `steps`: how many of the dear kind there were, over all texts.
    """

    __slots__ = ("_program", "_start", "_states", "_steps_end", "steps")

    def __init__(self, text: str) -> None:
        self._program = _Program(parse(text))
        self._states: dict[tuple[frozenset[int], int], _State] = {}
        self.steps = 0
        self._steps_end = 0
        self._start = self._state(frozenset((self._program.start,)), _EDGE)

    def matches(self, text: str) -> bool:
        """Whether the whole of `text` matches. Raises PatternError when that takes too long."""
        self._steps_end = self.steps + STEPS_MAX
        state = self._start
        for char in text:
            following = state.moves.get(char)
            if following is None:
                following = self._step(state, char)
            state = following
            if not state.places:
                return False
        if state.matches is None:
            state.matches = _MATCH in self._reach(state, _EDGE)
        return state.matches

    def _step(self, state: _State, char: str) -> _State:
        program = self._program
        kind = _kind(char)
        places: set[int] = set()
        for place in self._reach(state, kind):
            chars = program.chars[place]
            if chars is not None and char in chars:
                places.update(program.then[place])
        following = self._state(frozenset(places), kind)
        if len(state.moves) >= MOVES_MAX:
            state.moves.clear()
        state.moves[char] = following
        return following

    def _state(self, places: frozenset[int], before: int) -> _State:
        found = self._states.get((places, before))
        if found is None:
            if len(self._states) >= STATES_MAX:
                self._states.clear()  # what is in use goes on; the rest is found again
                self._start.moves.clear()
            found = self._states[places, before] = _State(places, before)
        return found

    def _reach(self, state: _State, after: int) -> set[int]:
        """All places that are reached from the state without a character, those that wait for one and the end."""
        program = self._program
        reached: set[int] = set()
        waiting = list(state.places)
        while waiting:
            place = waiting.pop()
            if place in reached:
                continue
            reached.add(place)
            if program.chars[place] is not None:
                continue
            condition = program.condition[place]
            if condition is None or _holds(condition, state.before, after):
                waiting.extend(program.then[place])
        self.steps += len(reached)
        if self.steps > self._steps_end:
            raise PatternError("the expression takes too long; write it with fewer repetitions within repetitions")
        return reached
