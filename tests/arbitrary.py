"""What nobody meant to give, for tests that give it."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

HUGE = [2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64, 10**400, -(2**31), -(2**63)]
ARRAYS = [np.array(3), np.array(0.5), np.array([3]), np.array("a"), np.array([2, 3]), np.datetime64(3, "s")]
SCALARS = [np.int8(3), np.uint64(2**63), np.int64(-5), np.float16(2), np.float64("inf"), np.bool_(True), np.str_("3")]

# numbers of any kind and size, texts, containers, arrays, a key: nothing that can be called
JUNK = st.one_of(
    st.sampled_from([-1, 0, *HUGE]),
    st.integers(),
    st.floats() | st.just(float("nan")),
    st.none() | st.booleans() | st.text(max_size=5) | st.binary(max_size=3) | st.complex_numbers(max_magnitude=9),
    st.lists(st.integers(-1, 4) | st.floats(), max_size=4) | st.tuples(st.integers(0, 9)) | st.just({}),
    st.sampled_from(SCALARS),
    st.sampled_from(ARRAYS),
    st.sampled_from([3, 0.25, [1, 2], 2j]).map(jnp.asarray) | st.builds(jax.random.key, st.just(0)),
    st.sampled_from(["SAME", "VALID", "same", "concat", "mean", "float32", "f4,,", "٣"]),
)


@st.composite
def mutated(draw, texts: st.SearchStrategy[str]) -> str:
    """A text with characters lost, doubled, set or put in, or cut off."""
    text = draw(texts)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(min(len(text), 40) - 1, 0)))
        character = draw(st.sampled_from([*":,.=-+_/ \0\n'\"()[]e09", "é", "٣", "\u2028"]) | st.characters())
        match draw(st.sampled_from(["lose", "double", "set", "insert", "cut"])):
            case "lose":
                text = text[:at] + text[at + 1 :]
            case "double":
                text = text[:at] + text[at : at + 1] + text[at:]
            case "set":
                text = text[:at] + character + text[at + 1 :]
            case "insert":
                text = text[:at] + character + text[at:]
            case "cut":
                text = text[:at]
    return text
