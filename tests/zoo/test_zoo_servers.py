"""Servers whose answers are not what they should be, and sound ones beside them."""

import itertools
import random

from misbehaving import WORDS, completion, ids_of
from zoo import broken, sound, visits
from zoo_servers import around, as_if, ask, changed, counts, edited, one_in


@broken("run-variant")
def weights_change_half_way(zoo):
    """A server gets other weights in the middle of the run, under the same name."""
    asked = itertools.count()

    def answer(handler, body, number, together):
        return completion(handler.server, body, number, flip=counts(body) and next(asked) > 4)

    return ask(zoo, answer)


SEVERAL = ("-n", 9, "--max-tokens", 8, "--prompt-file")


def weights_change_between_prompts(zoo, *arguments, **how):
    """From the first request for `two` on the weights are others."""
    seen = set()

    def answer(handler, body, number, together):
        seen.add(str(body["prompt"]))
        return completion(handler.server, body, number, flip=bool(seen & {"two", str(ids_of("two"))}))

    return ask(zoo, answer, *arguments, few=(*SEVERAL, zoo.file("prompts.txt", "one", "two")), **how)


@broken("run-variant")
def weights_change_between_two_prompts(zoo):
    """A server gets other weights between two prompts, under the same name."""
    return weights_change_between_prompts(zoo, "--conditions", "alone,wave-4")


@broken("run-variant")
def weights_change_between_two_prompts_by_default(zoo):
    """A server gets other weights between two prompts, and no conditions are named."""
    return weights_change_between_prompts(zoo, "--allow-unseen-batch", metrics=False)


@broken("inconclusive", 3, "answered by the model 'other'")
def another_model_says_its_name(zoo):
    """A server hands one request in five on to another model, and says which."""
    return ask(zoo, one_in(5, around(model="other")))


@broken("inconclusive", 3, "the model fell over")
def error_in_place_of_an_answer(zoo):
    """A server answers one request in five with status 200 and an error object."""
    fault = lambda h, b, n: {"error": {"message": "the model fell over", "code": 500}}  # noqa: E731
    return ask(zoo, one_in(5, fault))


@broken("inconclusive", 3, "the model fell over")
def error_beside_an_answer(zoo):
    """A server answers one request in five with an error object beside a choice that looks whole."""
    return ask(zoo, one_in(5, around(error={"message": "the model fell over"})))


@broken("inconclusive", 3, "0 choices")
def no_choices(zoo):
    """A server gives an empty list of choices for one request in five."""
    return ask(zoo, one_in(5, around(choices=[])))


@broken("inconclusive", 3, "finish reason 'abort'")
def aborted(zoo):
    """A server aborts one request in five, and gives what it had, which is all of it."""
    return ask(zoo, one_in(5, changed(finish_reason="abort")))


@broken("inconclusive", 3, "finish reason 'content_filter'")
def filtered(zoo):
    """A filter behind the server withholds part of one answer in five."""
    return ask(zoo, one_in(5, changed(finish_reason="content_filter")))


@broken("inconclusive", 3, "its usage says that 8 were made")
def fewer_tokens_than_usage(zoo):
    """A server hands over seven tokens of each answer, and its usage says that it made eight."""

    def cut(choice):
        choice["token_ids"] = choice["token_ids"][:7]
        for name in ("tokens", "token_logprobs"):
            choice["logprobs"][name] = choice["logprobs"][name][:7]

    return ask(zoo, one_in(5, edited(cut)))


def without_the_last(handler, body, number):
    """It stopped by itself at the eighth token, which usage counts, and whose id is not given."""
    whole = completion(handler.server, body, number)
    choice = whole["choices"][0] | {"finish_reason": "stop"}
    choice["token_ids"] = choice["token_ids"][:-1]
    for name in ("tokens", "token_logprobs"):
        choice["logprobs"][name] = choice["logprobs"][name][:-1]
    return whole | {"choices": [choice]}


@broken("inconclusive", 3, "tokens are missing here or there")
def end_token_now_and_then(zoo):
    """A server gives the id of the token that ended the answer, and leaves it out of one answer in five."""
    asked = itertools.count(1)

    def answer(handler, body, number, together):
        leaves_out = counts(body) and next(asked) % 5 == 0
        return (without_the_last if leaves_out else changed(finish_reason="stop"))(handler, body, number)

    return ask(zoo, answer)


@sound
def end_token_is_counted_and_not_given(zoo):
    """A server whose usage counts the token that ended the answer, and whose token ids leave it out."""
    return ask(zoo, lambda h, b, n, t: without_the_last(h, b, n))


@broken("inconclusive", 3, "not that of an earlier answer with the same tokens")
def text_of_other_tokens(zoo):
    """A server gives the same token ids each time, and one text in five is another one."""
    return ask(zoo, one_in(5, changed(text="something else")))


@broken("inconclusive", 3, "the answer is to another prompt")
def prompt_of_somebody_else(zoo):
    """A server says of one answer in five that the prompt it read was another one."""
    return ask(zoo, one_in(5, changed(prompt_token_ids=[1, 2, 3])))


@broken("run-variant")
def ignores_temperature(zoo):
    """A server draws tokens although temperature 0 was asked for."""
    return ask(zoo, lambda h, b, n, t: as_if(h, b, n, f"{n}"))


@broken("inconclusive", 3, "the server cuts them off at a length of its own")
def ignores_max_tokens(zoo):
    """A server makes four tokens at most, however many are asked for, and says that they are as long as was asked for."""
    return ask(zoo, lambda h, b, n, t: completion(h.server, b | {"max_tokens": 4}, n))


@broken("inconclusive", 3, "--ignore-eos asked to go on")
def ignores_ignore_eos(zoo):
    """A server is asked to go on past the end token, and stops there."""

    def stops(handler, body, number, together):
        return completion(handler.server, body | {"max_tokens": 5}, number, choice={"finish_reason": "stop"})

    return ask(zoo, stops, "--ignore-eos")


SEEDS = ("-n", 4, "--max-tokens", 8, "--prompt", "ask me", "--temperature", 0.8, "--seeds", 2, "--conditions", "alone,wave-2")  # fmt: skip


@broken("run-variant")
def ignores_the_seed(zoo):
    """A server draws with a seed of its own."""
    rng = random.Random(0)
    return ask(zoo, lambda h, b, n, t: completion(h.server, b | {"seed": rng.random()}, n), few=SEEDS)


@broken("inconclusive", 3, "nothing shows that any were drawn")
def takes_a_seed_and_draws_nothing(zoo):
    """A server takes temperature and seed, and gives the likeliest token all the same."""
    return ask(zoo, few=SEEDS, draws=False)


@broken("run-variant")
def fingerprint_and_bits_change(zoo):
    """A server's system fingerprint changes, and the bits with it."""
    return ask(zoo, one_in(3, lambda h, b, n: completion(h.server, b, n, flip=True, system_fingerprint="fp_2")))


@broken("inconclusive", 3, "twice")
def duplicate_keys(zoo):
    """A server's JSON holds `choices` twice, the second time right: parsers differ in which of them they take."""

    def twice(handler, body, number):
        import json

        good = json.dumps(completion(handler.server, body, number))
        bad = json.dumps(completion(handler.server, body, number, flip=True)["choices"])
        handler.send(f'{{"choices": {bad}, {good[1:]}'.encode())

    return ask(zoo, one_in(5, twice))


@broken("inconclusive", 3, "NaN")
def all_log_probabilities_are_nan(zoo):
    """A server whose model overflows: every log-probability is NaN, and the tokens are always the same."""

    def nan(choice):
        if choice.get("logprobs"):
            choice["logprobs"]["token_logprobs"] = [float("nan")] * len(choice["logprobs"]["tokens"])

    return ask(zoo, lambda h, b, n, t: edited(nan)(h, b, n), opens_well=False)


@broken("inconclusive", 3, "2 choices")
def two_choices(zoo):
    """A server gives two choices where one was asked for."""

    def twice(handler, body, number):
        whole = completion(handler.server, body, number)
        return whole | {"choices": whole["choices"] * 2}

    return ask(zoo, one_in(5, twice))


def with_a_token_of(other, handler, body, number):
    """An answer whose first token that differs from the other request's is the other's."""
    made = completion(handler.server, body, number)
    own, foreign = made["choices"][0], completion(handler.server, other, number)["choices"][0]
    words = [[WORDS[token] for token in one["token_ids"]] for one in (own, foreign)]
    place = next(n for n, (mine, theirs) in enumerate(zip(*words, strict=False)) if mine != theirs)
    own["token_ids"][place] = foreign["token_ids"][place]
    own["text"] = "".join(WORDS[token] for token in own["token_ids"])
    for name in ("tokens", "token_logprobs"):
        own["logprobs"][name][place] = foreign["logprobs"][name][place]
    return made


@broken("batch-variant")
def mixes_tokens_of_two_requests(zoo):
    """A server writes a token of another request into the answer where two run together."""

    def answer(handler, body, number, together):
        if together == 1:
            return completion(handler.server, body, number)
        with handler.server.lock:
            others = [(abs(n - number), o) for n, o in enumerate(handler.server.requests, 1)]
        # Next to it stands one that ran with it; of those to the same prompt a token would be its own.
        others = [(far, o) for far, o in others if o["prompt"] != body["prompt"] and o["max_tokens"] == 8]
        return with_a_token_of(min(others, key=lambda one: one[0])[1], handler, body, number)

    return ask(zoo, answer)


@broken("run-variant")
def answers_are_off_by_one(zoo):
    """A server gives each request the answer of the one before it, of whatever prompt."""
    before = []

    def answer(handler, body, number, together):
        with handler.server.lock:
            before.append(body)
            given = before[-2] if len(before) > 1 else body
        return completion(handler.server, given, number)

    return ask(zoo, answer, ids=False)


@broken("inconclusive", 3, "log-probabilities of an answer to another prompt")
def always_the_same_answer(zoo):
    """A server gives one answer to whatever prompt."""
    return ask(zoo, lambda h, b, n, t: as_if(h, b, n, "canned"))


TEXT = {"ids": False, "logprobs": False}
SENTENCE = "The question is a good one, and the answer to it is not known."


@broken("inconclusive", 3, "are one text, whatever was asked")
def one_text_for_all_prompts(zoo):
    """A server of text alone gives one long sentence to whatever prompt."""
    return ask(zoo, lambda h, b, n, t: completion(h.server, b, n, choice={"text": SENTENCE}), **TEXT)


@broken("inconclusive", 3, "are one text, whatever was asked")
def one_text_for_prompts_that_are_asked_alone(zoo):
    """A server of text alone gives one long sentence to each of three prompts, and no other request rides beside them."""
    file = zoo.file("prompts.txt", "Who wrote it?", "How far is the moon?", "Say a number.")
    few = ("-n", 4, "--max-tokens", 8, "--conditions", "alone", "--prompt-file", file)
    return ask(zoo, lambda h, b, n, t: completion(h.server, b, n, choice={"text": SENTENCE}), few=few, **TEXT)


@broken("inconclusive", 3, "log-probabilities of an answer to another prompt")
def always_the_same_answer_in_four_digits(zoo):
    """A server gives one answer to whatever prompt, with log-probabilities of four digits."""
    return ask(zoo, lambda h, b, n, t: as_if(h, b, n, "canned"), round_to=4)


@broken("run-variant")
def an_older_answer_again(zoo):
    """A server whose weights changed gives one request in three the answer that it gave before."""
    asked = itertools.count()

    def answer(handler, body, number, together):
        return completion(handler.server, body, number, flip=counts(body) and next(asked) % 3 > 0)

    return ask(zoo, answer)


@broken("run-variant")
def log_probabilities_of_a_draft_model(zoo):
    """A server gives the same tokens, and one answer in three has the log-probabilities of a draft model."""

    def draft(choice):
        choice["logprobs"]["token_logprobs"] = [v * 1.25 for v in choice["logprobs"]["token_logprobs"]]

    return ask(zoo, one_in(3, edited(draft)))


@broken("run-variant")
def log_probabilities_are_rounded_now_and_then(zoo):
    """A server prints all bits of its log-probabilities, and in one answer of three four digits."""

    def rounded(choice):
        choice["logprobs"]["token_logprobs"] = [round(v, 4) for v in choice["logprobs"]["token_logprobs"]]

    return ask(zoo, one_in(3, edited(rounded)))


@broken("run-variant")
def negative_zero(zoo):
    """A server gives 0.0 and -0.0 in turn as the log-probability of a certain token."""

    def zero(value):
        def put(choice):
            choice["logprobs"]["token_logprobs"][2] = value

        return edited(put)

    turn = itertools.cycle((0.0, -0.0, 0.0))
    return ask(zoo, lambda h, b, n, t: zero(next(turn) if counts(b) and b["max_tokens"] == 8 else 0.0)(h, b, n))


@broken("inconclusive", 3, "3 log-probabilities for 8 tokens")
def log_probabilities_of_the_first_tokens(zoo):
    """A server gives log-probabilities of the first three tokens only, in one answer of five."""

    def first(choice):
        choice["logprobs"]["token_logprobs"] = choice["logprobs"]["token_logprobs"][:3]

    return ask(zoo, one_in(5, edited(first)))


@broken("inconclusive", 3, "do not spell its text as those of an earlier answer")
def tokens_that_spell_half_the_text(zoo):
    """A server that spells tokens, without ids, leaves out the last of them in one answer of five."""

    def first(choice):
        choice["logprobs"] = {name: values[:3] for name, values in choice["logprobs"].items()}

    return ask(zoo, one_in(5, edited(first)), ids=False)


@broken("run-variant")
def log_probabilities_in_another_order(zoo):
    """A server gives the log-probabilities of one answer in three in the order of their size."""

    def ordered(choice):
        choice["logprobs"]["token_logprobs"].sort()

    return ask(zoo, one_in(3, edited(ordered)))


@broken("run-variant")
def reasoning_differs(zoo):
    """A chat server of text alone: what it answers is always the same, what it thought before is not."""

    def thinks(handler, body, number, together):
        message = {"role": "assistant", "content": "42", "reasoning_content": f"let me see: {number % 2}"}
        return completion(handler.server, body, number, choice={"message": message})

    return ask(zoo, thinks, "--chat", **TEXT)


@broken("run-variant")
def tool_calls_differ(zoo):
    """A chat server of text alone: the words beside its tool call are always the same, the call's arguments are not."""

    def calls(handler, body, number, together):
        made = {"id": f"call-{number}", "function": {"name": "look", "arguments": f'{{"page": {number % 2}}}'}}
        message = {"role": "assistant", "content": "I look it up.", "tool_calls": [made]}
        return completion(handler.server, body, number, choice={"message": message, "finish_reason": "tool_calls"})

    return ask(zoo, calls, "--chat", **TEXT)


@broken("inconclusive", 3, "its usage counts 9: it is made of others")
def same_text_of_more_tokens(zoo):
    """A server of text alone: the text is the same, and by its usage one in five is made of another number of tokens."""
    return ask(zoo, one_in(5, around(usage={"prompt_tokens": 4, "completion_tokens": 9})), **TEXT)


@broken("run-variant")
def finish_reasons_differ(zoo):
    """A server gives the same bits, and says of one answer in three that it ended by itself."""
    return ask(zoo, one_in(3, changed(finish_reason="stop")))


@broken("inconclusive", 3, "every completion is empty")
def nothing_is_said(zoo):
    """A server's answers are all empty, without a token."""
    empty = {"text": "", "token_ids": [], "finish_reason": "stop", "logprobs": {"tokens": [], "token_logprobs": []}}
    usage = {"prompt_tokens": 6, "completion_tokens": 0}
    return ask(zoo, lambda h, b, n, t: completion(h.server, b, n, choice=empty, usage=usage))


@broken("divergent", 1, "the first answer to the prompt differs from all")
def first_answer_is_another_one(zoo):
    """A server whose prefix cache gives other bits than computing the prompt does."""
    few = ("-n", 9, "--max-tokens", 8, "--prompt", "ask me", "--conditions", "cold,alone,wave-4")
    asked = itertools.count()

    def answer(handler, body, number, together):
        return completion(handler.server, body, number, flip=counts(body) and next(asked) == 0)

    return ask(zoo, answer, "--allow-unseen-batch", few=few, metrics=False)


@broken("batch-variant")
def shorter_under_load(zoo):
    """A server that sheds load: where requests run together each gets half of the tokens that it asked for."""

    def answer(handler, body, number, together):
        return completion(handler.server, body | {"max_tokens": 4 if together > 1 else 8}, number)

    return ask(zoo, answer)


@broken("divergent", 1)
def load_where_nothing_is_shown(zoo):
    """A server without metrics gives another token where requests run together."""
    return ask(zoo, lambda h, b, n, together: completion(h.server, b, n, flip=together > 1), metrics=False)


@sound
def the_same_by_bits(zoo):
    """A server that always gives the same bits."""
    return ask(zoo)


@sound
def a_slow_server(zoo):
    """A server that takes its time."""
    return ask(zoo, takes_s=0.25)


@sound
def answers_come_in_another_order(zoo):
    """A server that answers the requests of a wave in another order than they came."""
    import time

    def answer(handler, body, number, together):
        time.sleep(0.02 * (4 - number % 4))
        return completion(handler.server, body, number)

    return ask(zoo, answer)


@sound
def unicode(zoo):
    """A server whose text is emoji, accents and joiners, sometimes as surrogate pairs in the JSON, sometimes as UTF-8."""
    import json

    text = "e\u0301 \u00e9 \U0001f469\u200d\U0001f680 \u0646 \U0001d11e"

    def answer(handler, body, number, together):
        said = completion(handler.server, body, number, choice={"text": text})
        handler.send(json.dumps(said, ensure_ascii=number % 2 == 0).encode())

    return ask(zoo, answer)


@sound
def unicode_of_text_alone(zoo):
    """A server of text alone whose text is emoji, sometimes as surrogate pairs in the JSON, sometimes as UTF-8."""
    import json

    def answer(handler, body, number, together):
        said = completion(handler.server, body, number, choice={"text": "\U0001f469\u200d\U0001f680 ok"})
        handler.send(json.dumps(said, ensure_ascii=number % 2 == 0).encode())

    return ask(zoo, answer, **TEXT)


@sound
def long_answers(zoo):
    """A server whose answers have 2,000 tokens."""
    few = ("-n", 9, "--max-tokens", 2000, "--conditions", "alone,wave-4", "--prompt", "ask me")
    return ask(zoo, few=few)


@sound
def ends_at_once(zoo):
    """A server whose model has nothing to say: the end token alone, without a text."""
    end = {
        "text": "",
        "token_ids": [2],
        "logprobs": {"tokens": ["token_id:2"], "token_logprobs": [-0.1234567165374756]},
    }
    usage = {"prompt_tokens": 6, "completion_tokens": 1}
    answer = lambda h, b, n, t: completion(h.server, b, n, choice=end | {"finish_reason": "stop"}, usage=usage)  # noqa: E731
    return ask(zoo, answer)


@sound
def a_chat(zoo):
    """A server that has chats alone."""
    return ask(zoo, endpoints=("chat",))


@sound
def a_chat_that_only_thinks(zoo):
    """A reasoning model that is asked for few tokens: all of them go into its thought, and it says nothing."""

    def thinks(handler, body, number, together):
        message = {"role": "assistant", "content": None, "reasoning_content": "let me see: the question is"}
        return completion(handler.server, body, number, choice={"message": message})

    return ask(zoo, thinks, "--chat", **TEXT, opens_well=False)


@sound
def thoughts_that_are_counted_in_the_total_alone(zoo):
    """A chat server that hides its reasoning, and counts it in its usage's total alone: answers that are as long as was asked for look shorter."""
    usage = {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 12}
    said = {"message": {"role": "assistant", "content": "I look it"}}
    return ask(zoo, lambda h, b, n, t: completion(h.server, b, n, choice=said, usage=usage), "--chat", **TEXT)


@sound
def fields_that_nobody_knows(zoo):
    """A server whose answers have fields that OpenAI's API does not know, and other ones each time."""

    def answer(handler, body, number, together):
        more = {f"x_{number}": {"choices": [], "error": None}, "error": None, "timings": {"ms": number * 1.5}}
        return completion(handler.server, body, number, choice={"stop_reason": None, "seen": number}, **more)

    return ask(zoo, answer)


@sound
def seeds_that_draw_the_same(zoo):
    """A server that draws by the seed, and at this temperature three seeds of four give the same tokens."""

    def answer(handler, body, number, together):
        return completion(handler.server, body | {"seed": max(body.get("seed", 0), 2)}, number)

    few = ("-n", 4, "--max-tokens", 8, "--prompt", "ask me", "--temperature", 0.1, "--seeds", 4)
    return ask(zoo, answer, few=(*few, "--conditions", "alone,wave-2"))


@sound
def fingerprint_changes_and_bits_do_not(zoo):
    """A server whose system fingerprint changes while the bits stay."""
    return ask(zoo, lambda h, b, n, t: completion(h.server, b, n, system_fingerprint=f"fp_{n}"))


def of_two_prompts(zoo, answer, *arguments, **how):
    """The prompts are `one` and `two`, and fillers, each alone and in waves."""
    file = zoo.file("prompts.txt", "one", "two")
    return ask(zoo, answer, *arguments, "--conditions", "alone,wave-4", few=(*SEVERAL, file), **how)


@sound
def two_prompts_whose_answers_are_equal_and_thoughts_are_not(zoo):
    """A chat server of text alone that hides its reasoning: the answers to two prompts are equal, and its usage counts other thoughts."""

    def thinks(handler, body, number, together):
        message = {"role": "assistant", "content": "42"}
        thought = {"one": 5, "two": 7}.get(body["messages"][0]["content"], 4)
        usage = {"prompt_tokens": 4, "completion_tokens": thought}
        return completion(
            handler.server, body, number, choice={"message": message, "finish_reason": "stop"}, usage=usage
        )

    return of_two_prompts(zoo, thinks, "--chat", **TEXT)


@sound
def two_prompts_whose_answers_are_equal_and_tokens_are_not(zoo):
    """A server that spells tokens and strips the text: equal answers to two prompts begin with another token."""

    def strips(handler, body, number, together):
        first = " Yes" if body["prompt"] == "two" else "Yes"
        spelled = {"tokens": [first, "."], "token_logprobs": [-0.1234567165374756, -0.25]}
        usage = {"prompt_tokens": 4, "completion_tokens": 2}
        choice = {"text": "Yes.", "finish_reason": "stop", "logprobs": spelled}
        return completion(handler.server, body, number, choice=choice, usage=usage)

    return of_two_prompts(zoo, strips, ids=False)


@sound
def short_answers_to_all_prompts_are_equal(zoo):
    """A server of text alone whose model says "Yes." to whatever prompt, as one does that is asked for a word."""
    return of_two_prompts(zoo, lambda h, b, n, t: completion(h.server, b, n, choice={"text": "Yes."}), **TEXT)


@sound
def one_long_text_for_two_prompts(zoo):
    """A server of text alone that refuses two prompts in the same long words, and answers what else it is asked."""

    def refuses(handler, body, number, together):
        refused = {"text": SENTENCE} if body["prompt"] in ("one", "two") else {}
        return completion(handler.server, body, number, choice=refused)

    return of_two_prompts(zoo, refuses, **TEXT)


@sound
def stops_by_itself(zoo):
    """A server whose model ends before the most tokens that were asked for, as models do."""
    return ask(zoo, lambda h, b, n, t: completion(h.server, b | {"max_tokens": 5}, n, choice={"finish_reason": "stop"}))


test_subject = visits(globals())
