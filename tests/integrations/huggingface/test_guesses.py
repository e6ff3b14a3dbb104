"""What a row says next is guessed from its prompt."""

from integrations.huggingface.guesses import Guesses

PROMPT = [1, 2, 3, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 3, 30]


def test_goes_on_as_the_prompt_went_on() -> None:
    guesses = Guesses(PROMPT, 0)
    assert guesses.next([99, 10, 11], 9) == [12, 13, 14, 15]
    assert guesses.next([12, 14], 9) == [15, 16, 17, 18]  # no such pair: the last token alone, which stands once
    assert guesses.next([99, 3], 9) == []  # 3 stands twice
    assert guesses.next([20, 3], 9) == [30]
    assert guesses.next([99, 98], 9) == guesses.next([3, 30], 9) == []


def test_not_from_the_system_message_and_not_more_than_asked() -> None:
    guesses = Guesses(PROMPT, 6)
    assert guesses.next([10, 11], 9) == []
    assert guesses.next([13, 14], 2) == [15, 16]
    assert guesses.next([13, 14], 0) == []


def test_guesses_more_where_it_went_well_and_less_where_not() -> None:
    guesses = Guesses(PROMPT, 0)
    lengths = []
    for right in (4, 6, 8, 2, 0, 1):
        said = guesses.next([10, 11], 99)
        lengths.append(len(said))
        guesses.learn(len(said), right)
    assert lengths == [4, 6, 8, 8, 3, 1]
    assert len(guesses.next([10, 11], 99)) == 3
