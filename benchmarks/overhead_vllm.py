"""The process that holds vLLM, and one thing more that it is asked here: to generate in the same engine with nothing of ours. For `overhead.py`.

The requests have no plan, so our scheduler lets them pass, and the loop is that of vLLM's `LLM.generate`.
"""

from detcheck.engines.vllm import host


class Host(host.Host):
    def serve(self, request):
        return self.generate(*request) if isinstance(request, tuple) else super().serve(request)

    def generate(self, asked):
        """[(prompt, new tokens, how many log-probabilities or None)] -> the tokens of each."""
        from vllm import SamplingParams

        self._engine.reset_prefix_cache()
        fixed = {"temperature": 0.0, "ignore_eos": True, "detokenize": False, "skip_reading_prefix_cache": True}
        names, made = [str(next(self._names)) for _ in asked], {}
        for name, (prompt, count, logprobs) in zip(names, asked, strict=True):
            parameters = SamplingParams(max_tokens=count, logprobs=logprobs, **fixed)
            self._engine.add_request(name, {"prompt_token_ids": list(prompt)}, parameters)
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    made[output.request_id] = tuple(output.outputs[0].token_ids)
        return [made[name] for name in names]


def main(descriptor):
    host.Host = Host
    host.main(descriptor)
