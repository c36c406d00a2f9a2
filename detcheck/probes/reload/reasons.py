"""The words of what an update was found to be: code -> a sentence with {names} of values."""

from __future__ import annotations

from detcheck.reason import Reason

Cause = Reason

SENTENCES = {
    "same": "all {completions} completions after the update have the bits of a fresh load, and so have all {tensors} tensors, of which the update "
    "changed {differ}",
    "same_unread": "all {completions} completions after the update have the bits of a fresh load",
    "nothing_unread": "the engine gives what it gave before the update, bit for bit",
    "unlike_unread": "completions after the update have other bits than a fresh load's",
    "nothing": "nothing was updated: the engine gives what it gave before, and every tensor in which old and new weights differ "
    "has the old bits ({differ}: {names})",
    "left": "{count} of {differ} tensors were not brought up to date: {names}",
    "left_silent": "the completions do not show it",
    "cache": "the prefix cache of the old weights is still in use: {count} of {of} completions after the update have other bits than a fresh "
    "load's, and the same prompts have the right ones once the cache is emptied",
    "derived_old": "the engine gives what it gave before, bit for bit, although all {tensors} tensors that could be read have the new bits: "
    "something made of the old weights is still in use, such as a compiled graph with constants in it, a captured CUDA graph or a packed copy",
    "derived": "completions after the update have other bits than a fresh load's, although all {tensors} tensors that could be read are the same: "
    "something that was made of the old weights, or while they were loaded, is still in use",
    "failed_old": "the update failed ({why}), and the old weights still serve: every completion has the bits from before",
    "failed_old_read": "the update failed ({why}), and the old weights still serve: every completion has the bits from before, and so has every tensor",
    "failed_torn_unread": "the update failed half-way ({why}), and the engine serves what is neither the old weights nor the new ones",
    "failed_new": "the update failed ({why}), and yet the engine serves the new weights",
    "failed_torn": "the update failed half-way ({why}), and the engine serves what is neither: {new} of {differ} tensors are new already, and it answers all the same",
    "failed_unclear": "the update failed ({why}), and old and new weights give the same completions, so that these do not tell which of them serve",
    "unsteady": "a fresh load does not repeat itself: {count} prompts, asked again, have other bits, so that nothing is known of the update. "
    "detcheck completions tells the run from the batch",
    "no_more": "the update did not come to its end ({why}), and the engine gave no completions after it{then}",
    "stopped": "the run stopped before all completions were asked for",
    "missing": "{count} completions are missing ({why})",
    "same_weights": "the old and the new weights are the same, so that an update which does nothing would pass. Name others with --old",
    "not_sensitive": "old and new weights give the same completions although {differ} tensors differ ({names}), so that an update which does nothing would "
    "pass too. Ask for more --max-tokens or other prompts, or name other weights with --old",
    "cache_cold": "no prompt came from the prefix cache before the update, so that nothing is known of what is left in it. Give a longer prompt, or --trials 2",
    "ignored": "vLLM ignores the call to sleep on this device, so that nothing was given back or taken again",
    "sleep_unseen": "whether the server gave its memory back while it slept cannot be seen from here",
    "unread": "{count} more tensors could not be read ({names})",
    "gone": "{count} tensors could be read before the update and in a fresh load, and not after it ({names}), so that nothing is known of them",
    "alike": "{count} tensors are the same in the old weights, which were made of the new ones, so that an update which leaves them out would pass ({names}). "
    "Name other weights with --old",
    "silent": "not all was said of the weights when it was asked for ({why}), so that a tensor left behind would show in completions alone",
    "not_read": "the server does not say what its weights are, so that a tensor left behind shows in completions alone",
}


def sentence(cause: Reason) -> str:
    return cause.sentence(SENTENCES)
