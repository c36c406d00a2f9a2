"""Files of completions that others collected, in which a divergence, or the lack of evidence, hides, and sound ones."""

import json

from zoo import broken, sound, visits

TOKENS = [5, 17, 2, 9]


def judge(zoo, lines, *arguments, name="answers.jsonl"):
    """`detcheck judge` of a file of these lines; a line is text, or a JSON value."""
    return zoo.ask("judge", write(zoo, name, lines), *arguments)


def write(zoo, name, lines):
    path = zoo.folder / name
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), "utf-8")
    return path


def rows(count=8, size=lambda n: 1 if n < 4 else 4, tokens=lambda n: TOKENS, **more):
    """Samples of detcheck's own format: four alone, and one batch of four."""
    made = []
    for n in range(count):
        row = {"tokens": tokens(n), "batch_size": size(n), "trial": n if size(n) == 1 else 0}
        made.append(row | {key: value(n) if callable(value) else value for key, value in more.items()})
    return made


def batch(count=6, text=lambda n: "Four.", **more):
    """The output of a batch API: answers to two requests."""
    made = []
    for n in range(count):
        choice = {"index": 0, "message": {"role": "assistant", "content": text(n)}, "finish_reason": "stop"}
        choice |= {key: value(n) if callable(value) else value for key, value in more.items()}
        body = {"id": f"c-{n}", "choices": [choice], "model": "m"}
        made.append({"custom_id": f"q{n % 2}", "response": {"status_code": 200, "body": body}, "error": None})
    return made


UNSEEN = "--allow-unseen-batch"


@broken("usage error", 2, "is a batch of 1 with more rows than that")
def lines_are_there_twice(zoo):
    """A file holds one sample eight times: the same batch of 1, the same trial."""
    return judge(zoo, rows(1) * 8)


@broken("usage error", 2, "came before")
def a_file_behind_itself(zoo):
    """A file was written twice, one copy behind the other, so that each batch is there again."""
    return judge(zoo, rows() + rows())


@broken("divergent", 1)
def a_later_line_overrides_an_earlier_one(zoo):
    """A harness asked again and wrote the new answer behind the old one, under the same id: the old one is another answer."""
    return judge(zoo, batch(text=lambda n: "Five." if n == 0 else "Four."), UNSEEN)


@broken("run-variant")
def text_equal_and_tokens_not(zoo):
    """Samples have the same text, and one of them is cut into other tokens."""
    return judge(zoo, rows(tokens=lambda n: [5, 17, 2, 8, 1] if n == 2 else TOKENS, text="two plus two"))


@broken("inconclusive", 3, "not that of an earlier sample with the same tokens")
def tokens_equal_and_text_not(zoo):
    """Samples have the same token ids, and one of them another text."""
    return judge(zoo, rows(text=lambda n: "five" if n == 5 else "four"))


@broken("batch-variant")
def only_in_the_batch(zoo):
    """Samples differ where they were computed together alone, in the last token."""
    size = lambda n: 1 if n < 4 else 4  # noqa: E731
    return judge(zoo, rows(size=size, tokens=lambda n: TOKENS if n < 4 else [5, 17, 2, 8]))


@broken("divergent", 1, "undetermined")
def no_batch_sizes(zoo):
    """Samples differ, and nothing tells in which batches they were computed."""
    return judge(zoo, [{"text": f"Tell me {n // 7}"} for n in range(8)])


@broken("inconclusive", 3, "could not be seen")
def some_batch_sizes(zoo):
    """Samples are equal, and half of them do not say in which batch they were computed."""
    return judge(zoo, rows(4) + [{"tokens": TOKENS}] * 4)


@broken("inconclusive", 3, "only one kind of batch was met")
def one_kind_of_batch(zoo):
    """All samples were computed alone, so nothing is known of batches."""
    return judge(zoo, rows(size=lambda n: 1))


@broken("divergent", 1)
def requests_that_share_an_id(zoo):
    """Two requests were given one id: their answers are answers to one request, as far as the file tells."""
    lines = batch(4, text=lambda n: "Paris." if n < 2 else "Berlin.")
    return judge(zoo, lines, UNSEEN)


@broken("inconclusive", 3, "there is nothing to compare with")
def one_id_for_other_prompts(zoo):
    """A table gives each prompt the same id, so that each prompt has one answer."""
    return judge(zoo, ["id,prompt,text", "q,one,Paris.", "q,two,Paris.", "q,three,Paris."], UNSEEN, name="answers.csv")


@broken("inconclusive", 3, "HTTP 500: it broke")
def failed_lines(zoo):
    """One line of six says that its request failed."""
    lines = batch()
    lines[3]["response"] = {"status_code": 500, "body": {"error": {"message": "it broke"}}}
    return judge(zoo, lines, UNSEEN)


@broken("inconclusive", 3, "finish reason 'abort'")
def aborted_lines(zoo):
    """One answer of six was aborted, when it already said all that the others say."""
    return judge(zoo, batch(finish_reason=lambda n: "abort" if n == 4 else "stop"), UNSEEN)


@broken("divergent", 1)
def refusals_differ(zoo):
    """A model refuses in other words each time: the content is always empty."""
    message = lambda n: {"role": "assistant", "content": None, "refusal": f"I cannot do that, {n // 4}."}  # noqa: E731
    return judge(zoo, batch(message=message), UNSEEN)


@broken("divergent", 1)
def thoughts_differ(zoo):
    """A model says the same, and what it thought before is another thing in one answer of six."""
    message = lambda n: {"role": "assistant", "content": "42", "reasoning": f"let me see {n // 5}"}  # noqa: E731
    return judge(zoo, batch(message=message), UNSEEN)


@broken("inconclusive", 3, "every completion is empty")
def all_answers_are_empty(zoo):
    """All answers are empty."""
    return judge(zoo, batch(text=lambda n: ""), UNSEEN)


@broken("usage error", 2, "holds no completions")
def nothing_in_it(zoo):
    """A file without a line."""
    return judge(zoo, [])


@broken("inconclusive", 3, "there is nothing to compare with")
def one_sample_each(zoo):
    """Each request of a file has one answer."""
    return judge(zoo, [{"prompt": f"{n}", "text": "Four."} for n in range(8)], UNSEEN)


@broken("usage error", 2, "Give all samples alike")
def log_probabilities_of_some(zoo):
    """Half of the samples have log-probabilities, and half have none."""
    return judge(zoo, rows(4, logprobs=[-0.5] * 4) + rows(8)[4:])


@broken("run-variant")
def log_probabilities_in_the_last_digit(zoo):
    """Samples have the same tokens, and one of them a log-probability that differs in its last digit."""
    numbers = lambda n: [-0.1, -0.2, -0.30000001192092896 if n != 3 else -0.3000000119209289, -0.4]  # noqa: E731
    return judge(zoo, rows(logprobs=numbers))


@broken("divergent", 1)
def accents_that_look_alike(zoo):
    """Texts look alike: in one of them an accent is a letter of its own."""
    return judge(zoo, [{"text": "caf\u00e9" if n != 5 else "cafe\u0301"} for n in range(8)], UNSEEN)


@broken("divergent", 1)
def a_space_at_the_end(zoo):
    """Texts differ in a space at their end."""
    return judge(zoo, ["text", *['"Four."'] * 5, '"Four. "'], UNSEEN, name="answers.csv")


@broken("usage error", 2, "is not JSON")
def cut_off_in_the_last_line(zoo):
    """A harness was killed while it wrote the last line, which is the one that differs."""
    return judge(zoo, [*rows(), '{"tokens": [5, 17, 2, 8], "batch_si'])


@broken("usage error", 2, "twice")
def a_key_twice(zoo):
    """A line holds `tokens` twice, the second time as the other lines do."""
    return judge(zoo, [*rows(), '{"tokens": [5, 17, 2, 8], "tokens": [5, 17, 2, 9], "batch_size": 1, "trial": 9}'])


@broken("divergent", 1)
def two_systems_differ_in_one_answer(zoo):
    """Two systems answer the same requests alike, but one of them."""
    first = write(zoo, "a.jsonl", batch(2))
    other = write(zoo, "b.jsonl", batch(2, text=lambda n: "Five." if n else "Four."))
    return zoo.ask("judge", first, other)


@broken("inconclusive", 3, "does not have this request")
def a_request_of_one_system(zoo):
    """Two systems answer alike, and one of them was not asked all of it."""
    lines = batch(2)
    return zoo.ask("judge", write(zoo, "a.jsonl", lines), write(zoo, "b.jsonl", lines[:1]))


@broken("usage error", 2, "same file")
def a_system_beside_itself(zoo):
    """A file is compared with itself, under another name."""
    first = write(zoo, "a.jsonl", batch(2))
    (zoo.folder / "b.jsonl").symlink_to(first)
    return zoo.ask("judge", first, zoo.folder / "b.jsonl")


@sound
def the_same_alone_and_in_a_batch(zoo):
    """Samples of detcheck's own format, alone and in a batch, with log-probabilities."""
    return judge(zoo, rows(logprobs=[-0.1, -0.2, -0.30000001192092896, -0.4], text="four", finish_reason="stop"))


@sound
def lines_in_another_order(zoo):
    """A file of answers in another order than they were asked in."""
    lines = batch()
    return judge(zoo, [lines[n] for n in (5, 0, 3, 2, 4, 1)], UNSEEN)


@sound
def what_a_harness_writes_beside(zoo):
    """A file with a harness's own keys, times and ids, other ones in each line."""
    beside = {"latency_s": lambda n: n * 0.1, "host": lambda n: f"node-{n}", "meta": lambda n: {"tokens": n}}
    return judge(zoo, rows(**beside))


@sound
def unicode_in_both_spellings(zoo):
    """A file with emoji, as UTF-8 and as surrogate pairs, and with line separators inside texts."""
    said = "\U0001f469\u200d\U0001f680 e\u0301\u2028\u0085 \U0001d11e"
    return judge(zoo, [json.dumps({"text": said}, ensure_ascii=n % 2 == 0) for n in range(6)], UNSEEN)


@sound
def some_answers_are_empty(zoo):
    """A request whose tokens are an end token alone, without a text."""
    return judge(zoo, rows(tokens=lambda n: [2], text=""))


@sound
def two_systems_in_another_order(zoo):
    """Two systems answer alike, in files of another order."""
    return zoo.ask("judge", write(zoo, "a.jsonl", batch(2)), write(zoo, "b.jsonl", batch(2)[::-1]))


@sound
def samples_of_prompts_side_by_side(zoo):
    """A batch of four prompts, each time the same four: each has a row in each batch."""
    lines = [{"prompt": f"p{p}", "tokens": [p, 5], "batch_size": size, "trial": trial} for size in (4, 8) for trial in range(2) for p in range(4)]  # fmt: skip
    return judge(zoo, lines)


@sound
def requests_whose_hashes_begin_alike(zoo):
    """Two requests with answers of their own, and the same first eight digits of a hash, which reports name them by."""
    asked = {"prompt number 38322": [1, 2, 3], "prompt number 83909": [4, 5, 6]}
    lines = [
        {"prompt": prompt, "tokens": tokens, "batch_size": size, "trial": n}
        for prompt, tokens in asked.items()
        for size in (1, 4)
        for n in range(2)
    ]
    return judge(zoo, lines)


test_subject = visits(globals())
