"""A model's folder as both engines read it: config, tokenizer, digests. No weights."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import numpy as np

from detcheck.dtypes import full_dtype
from detcheck.errors import FailedError, UsageError
from detcheck.models import amplifier, gguf
from detcheck.models.complete import refuse_other_kinds
from detcheck.models.conversation import LostAnswerError, between
from detcheck.models.folder import code_of, digests, resolve
from detcheck.models.later import sklearn_later
from detcheck.models.sentence import Pooling, longest, pooling
from detcheck.models.task import Task, chosen, in_two_parts, is_encoder

ALLOW = "Read it, and allow it with --trust-remote-code"
MOST_SHOWN = 400  # characters of somebody else's message
LOUD = ("torchao", "torch.utils._pytree")  # loggers that speak when torchao is imported


class Checkpoint:
    """What an engine knows of a model before it brings up the weights."""

    def __init__(self, model: str | None, dtype: str | None, trust_remote_code: bool, task: str | None = None) -> None:
        """`task`: what it is to give in one pass; None: completions. Raises UsageError for what can be seen without the weights, FailedError without torch or where the hub fails."""
        self.name = amplifier.NAME if model is None else model
        self._dtype = full_dtype(dtype) or ("float32" if model is None else None)
        try:
            import torch  # noqa: F401
            import transformers  # noqa: F401
        except ImportError as error:
            raise FailedError(
                f"running a model needs torch and transformers ({error}): pip install 'detcheck[transformers]'"
            ) from None
        sklearn_later()
        self.gguf: Path | None
        self.folder, self.gguf = (amplifier.folder(), None) if model is None else resolve(model)
        if self.gguf:
            gguf.require()
        self._trust = trust_remote_code
        if not trust_remote_code and (code := code_of(self.folder)):
            raise UsageError(f"{self.name} wants code that is not in transformers: {code}. {ALLOW}")
        self.digests: Mapping[str, str] = digests(self.folder, trust_remote_code, self.gguf)
        with quiet_transformers():
            self._config, self._tokenizer = self._read()
        self.task = chosen(task or Task.GENERATE, self._config, self.folder)
        refuse_other_kinds(self.name, self._config, self.task, once=task is not None)
        self.causal = self.task is Task.GENERATE and not in_two_parts(self._config)
        text = self._config.get_text_config()
        self.context: int = getattr(text, "max_position_embeddings", None) or 2**31
        if not self.causal:  # what users of embedders and classifiers cut their texts to
            cut = longest(self.folder) if self.task is Task.EMBED else self.context
            self.context = min(self.context, self._tokenizer.model_max_length, cut)
            _ = self.pad  # refused before the weights are read
        self.pooling = self._pooling() if self.task is Task.EMBED else None

    def _read(self) -> tuple[Any, Any]:
        from transformers import AutoConfig, AutoTokenizer

        if self.gguf:
            return self._read_gguf(self.gguf)
        try:
            config = AutoConfig.from_pretrained(self.folder, trust_remote_code=self._trust)
            return config, AutoTokenizer.from_pretrained(self.folder, trust_remote_code=self._trust)
        except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
            if not self._trust and "trust_remote_code" in str(error):
                raise UsageError(
                    f"{self.name} brings Python code of its own (auto_map in its config or tokenizer), which would run here. {ALLOW}"
                ) from None
            raise UsageError(
                f"cannot read config or tokenizer of {self.name}: {first_line(error)}. It must be the folder of a language model"
            ) from None

    def _read_gguf(self, file: Path) -> tuple[Any, Any]:
        from transformers import AutoConfig, AutoTokenizer

        inside = {"gguf_file": str(file.absolute())}  # of a bare name one in the current folder would be taken
        try:
            config = AutoConfig.from_pretrained(self.folder, **inside)
        except Exception as error:
            raise UsageError(
                f"cannot read {self.name}: {first_line(error)}. It must be a whole GGUF file, of an architecture that transformers reads"
            ) from error
        beside = gguf.tokenizer_beside(file)
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, **({"config": config} if beside else inside))
        except Exception as error:
            raise UsageError(
                f"cannot read the tokenizer of {self.name}{' in its folder' if beside else ''}: {first_line(error)}. "
                "Put the model's tokenizer.json and tokenizer_config.json beside the file"
            ) from error
        if beside and len(tokenizer) > (room := config.get_text_config().vocab_size):
            raise UsageError(
                f"the tokenizer in {self.folder} has {len(tokenizer)} tokens, and the model in {file.name} has {room}, so they are not of one model. "
                "Put the file into a folder of its own, or beside its own tokenizer"
            )
        return config, tokenizer

    def _pooling(self) -> Pooling:
        """How the folder's files say that an embedding is made, or else of the token that has seen the whole text."""
        encoder = is_encoder(self._config)
        mode, kind = ("cls", "an encoder's first token") if encoder else ("lasttoken", "a decoder's last token")
        return pooling(self.folder) or Pooling((mode,), (), f"{kind}, since there is no modules.json")

    @property
    def padding_side(self) -> str:
        return self._tokenizer.padding_side

    @functools.cached_property
    def pad(self) -> int:
        """Id of the token that rows are filled up with: the tokenizer's, else the config's, else one that ends a text.

        Raises UsageError for one that the model does not know: whoever pads a batch with it gets an error from the model.
        """
        text = self._config.get_text_config()
        named = (self._tokenizer.pad_token_id, getattr(text, "pad_token_id", None))
        found = next((one for one in named if one is not None), min(self.ends, default=0))
        if not 0 <= found < text.vocab_size:
            raise UsageError(
                f"the pad token of {self.name} is token {found}, and its model knows {text.vocab_size}, so that no batch of it can be padded. "
                "Name another pad_token in tokenizer_config.json"
            )
        return found

    @functools.cached_property
    def ends(self) -> frozenset[int]:
        """Token ids that end a completion, as the checkpoint's generation config says, or else its config, which is all that a GGUF file has."""
        from transformers import GenerationConfig

        found = None
        with contextlib.suppress(OSError, ValueError):
            found = None if self.gguf else GenerationConfig.from_pretrained(self.folder).eos_token_id
        found = self._config.get_text_config().eos_token_id if found is None else found
        return frozenset(found if isinstance(found, list) else [] if found is None else [found])

    def encode(self, text: str) -> tuple[int, ...]:
        try:
            return self._known(self._tokenizer(text)["input_ids"])
        except (TypeError, UnicodeError) as error:
            raise UsageError(
                f"the tokenizer of {self.name} refuses the prompt {text[:40]!a}: {first_line(error)}. Is it valid Unicode?"
            ) from None

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        return self._known(self._tokenizer(self._rendered(messages), add_special_tokens=False)["input_ids"])

    def encode_later(
        self, first: Sequence[Mapping[str, str]], later: Sequence[Sequence[Mapping[str, str]]]
    ) -> tuple[tuple[int, ...], ...]:
        """See `engine.Engine`. Raises UsageError where the template refuses a message, or leaves earlier answers out."""
        try:
            texts = between(self._rendered, first, later)
        except LostAnswerError as error:
            raise UsageError(
                f"the chat template of {self.name} leaves the model's answer out before turn {error.turn}, so that it cannot be fed back"
            ) from None
        return tuple(self._known(self._tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)

    def _rendered(self, messages: Sequence[Mapping[str, str]]) -> str:
        from jinja2 import TemplateError

        if not self._tokenizer.chat_template:
            raise UsageError(
                f"the tokenizer of {self.name} has no chat template. Leave out --chat, or give prompts instead of messages"
            )
        try:
            return self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise UsageError(f"the chat template of {self.name} refuses the messages: {first_line(error)}") from None

    def _known(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Raises UsageError for a token that the tokenizer has and the model has not."""
        if beyond := [i for i in ids if i >= self._config.get_text_config().vocab_size]:
            raise UsageError(
                f"{self._tokenizer.convert_ids_to_tokens(beyond[0])!a} of the prompt is token {beyond[0]} of the tokenizer of {self.name}, whose model "
                f"knows {self._config.get_text_config().vocab_size}. Leave it out, or give the model its own tokenizer"
            )
        return tuple(ids)

    def decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    @property
    def vocabulary(self) -> int:
        """Tokens that the model knows."""
        return self._config.get_text_config().vocab_size

    def vocabulary_words(self) -> list[str]:
        """The tokenizer's token of every id."""
        return list(map(str, self._tokenizer.convert_ids_to_tokens(range(len(self._tokenizer)))))

    def ordinary_tokens(self) -> np.ndarray:
        size = min(len(self._tokenizer), self._config.get_text_config().vocab_size)
        known = self._config.to_dict().items()  # an image's place in the text is no ordinary token
        places = {n for name, n in known if name.endswith(("_token_id", "_token_index")) and isinstance(n, int)}
        special = list(set(self._tokenizer.all_special_ids) | self.ends | places)
        return np.setdiff1d(np.arange(size, dtype=np.int64), np.asarray(special, dtype=np.int64))


def first_line(error: BaseException) -> str:
    """What an error says, in one line: libraries append pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0].rstrip(".") if lines else type(error).__name__
    return first if len(first) <= MOST_SHOWN else f"{first[:MOST_SHOWN]}..."


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps transformers' warnings and progress bars out of our output, and those of torchao, which it imports; puts settings back."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    others = {logger: logger.level for logger in map(getLogger, LOUD)}
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for logger in others:
        logger.setLevel(ERROR)
    try:
        yield
    finally:
        for logger, before in others.items():
            logger.setLevel(before)
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
