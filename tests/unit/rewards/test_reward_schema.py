import base64
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from judge_fakes import picture
from PIL import Image
from pydantic import ValidationError

from tastemaker.rewards import schema
from tastemaker.rewards.judge import Answer, Question
from tastemaker.rewards.reward import Missing
from tastemaker.rewards.schema import AskedQuestion, GivenAnswer, ScoreRequest, ScoreResponse, ServerFacts

WIRE = Path(__file__).parent / "wire"


def png(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, options.pop("format", "PNG"), **options)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    "name, kind", [("score_request", ScoreRequest), ("score_response", ScoreResponse), ("judge", ServerFacts)]
)
def test_stored_messages_still_parse_and_serialise_byte_for_byte(name, kind):
    stored = (WIRE / f"{name}.v1.json").read_bytes()
    assert kind.model_validate_json(stored).model_dump_json().encode() == stored


def test_the_stored_request_shows_what_it_showed():
    first, edit = map(
        schema.question_of, ScoreRequest.model_validate_json((WIRE / "score_request.v1.json").read_bytes()).questions
    )
    assert (first.id, first.text, first.sources) == ("p1/0", "a red circle\n</think> “Score: 5”", ())
    assert np.asarray(first.picture).tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [1, 2, 3]]]
    assert [source.size for source in edit.sources] == [(3, 1), (1, 1)]


def test_the_stored_response_means_what_it_meant():
    stored = ScoreResponse.model_validate_json((WIRE / "score_response.v1.json").read_bytes())
    one, two = (schema.answer_of(answer, stored.judge.low, stored.judge.high) for answer in stored.answers)
    assert one == Answer("p1/0", 4.25, "It is red.", 0.98) and two.score == Missing("the judge took longer than 45 s")


def test_a_server_that_says_no_deadline_is_understood():
    facts = schema.JudgeFacts(name="old", low=1.0, high=5.0, fingerprint="f")
    assert ServerFacts.model_validate_json(facts.model_dump_json()) == ServerFacts(**facts.model_dump(), deadline=None)


def test_pixels_survive_the_wire():
    asked = Question("a", "text", picture(1), (picture(2), picture(3, side=5)))
    back = schema.question_of(AskedQuestion.model_validate_json(schema.asked(asked).model_dump_json()))
    for sent, got in zip((asked.picture, *asked.sources), (back.picture, *back.sources), strict=True):
        assert np.array_equal(np.asarray(sent), np.asarray(got))


def test_nothing_but_pixels_is_sent():
    tagged = picture(1)
    tagged.info["parameters"] = "trained on a secret"
    assert b"secret" not in base64.b64decode(schema.png_base64(tagged))


def bomb(side):
    """A PNG that claims to be side x side, with almost nothing in it."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


SVG = base64.b64encode(b'<svg xmlns="http://www.w3.org/2000/svg"/>').decode()


@pytest.mark.parametrize(
    "text, why",
    [
        ("not base64!", "no base64"),
        ("QUJD", "no PNG"),
        (SVG, "no PNG"),
        (png(picture(), format="JPEG"), "no PNG"),
        (png(picture())[:60] + "==", "cannot be read"),
        (bomb(5000), "5000 x 5000 pixels"),
        (bomb(60_000), "cannot be read"),
        (bomb(64), "cannot be read"),
        (png(picture().convert("RGBA")), "RGBA"),
        (png(picture().convert("P")), "a P PNG"),
        (png(Image.new("I;16", (4, 4))), "I;16"),
        (png(picture(), save_all=True, append_images=[picture(1)]), "2 frames"),
    ],
    ids=["text", "short", "svg", "jpeg", "cut", "large", "bomb", "lies", "alpha", "palette", "16 bit", "animated"],
)
def test_what_is_no_plain_png_is_refused_with_a_reason(text, why):
    with pytest.raises(ValueError, match=why):
        schema.picture_of(text)


@pytest.mark.parametrize("field, value", [("picture", "/etc/passwd"), ("picture", "http://example.com/a.png"), ("path", "x")])
def test_no_message_has_a_place_for_a_path_or_url(field, value):
    whole = {"id": "a", "text": "", "picture": png(picture())}
    message = whole | {field: value}
    try:
        sent = AskedQuestion(**message)
    except ValidationError:
        return
    with pytest.raises(ValueError, match=r"base64|PNG"):
        schema.question_of(sent)


@pytest.mark.parametrize("ids, why", [([], "at least 1"), (["a", "a"], "'a'"), ([str(n) for n in range(65)], "at most 64")])
def test_a_request_has_1_to_64_questions_of_their_own_ids(ids, why):
    sent = tuple(AskedQuestion(id=id, text="", picture="QUJD") for id in ids)
    with pytest.raises(ValidationError, match=why):
        ScoreRequest(questions=sent)


@pytest.mark.parametrize("score", [math.nan, math.inf, 9e9, 0.99, None])
def test_a_score_that_is_none_is_believed_by_nobody(score):
    answer = schema.answer_of(GivenAnswer(id="a", score=score), 1.0, 5.0)
    assert isinstance(answer.score, Missing) and answer.score.reason


@pytest.mark.parametrize("score", ["4", "4/5", True, [4]])
def test_a_score_is_a_number(score):
    with pytest.raises(ValidationError):
        GivenAnswer.model_validate({"id": "a", "score": score})


def test_a_judges_nan_is_sent_as_missing():
    assert schema.given(Answer("a", math.nan)) == GivenAnswer(id="a", score=None, reason="the score is nan")


def test_answers_are_matched_by_id():
    shuffled = [Answer("b", 2.0), Answer("a", 1.0)]
    assert schema.in_order(["a", "b"], shuffled) == shuffled[::-1]


@pytest.mark.parametrize(
    "ids, why", [(["a"], "1 answers to 2"), (["a", "b", "c"], "3 answers"), (["a", "a"], "two answers"), (["a", "x"], "'x'")]
)
def test_answers_that_do_not_fit_are_rejected_whole(ids, why):
    with pytest.raises(ValueError, match=why):
        schema.in_order(["a", "b"], [Answer(id, 1.0) for id in ids])
