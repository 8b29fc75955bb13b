"""Prices of a model's tokens and requests."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from tapir_ray.config.section import Count, Section

Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PriceTier(Section):
    """US dollars per million tokens of a request with more than `above` input tokens, for all its tokens."""

    above: Count
    input: Dollars
    cached_input: Dollars | None = None
    output: Dollars
    reasoning: Dollars | None = None


class Price(Section):
    """US dollars per million tokens."""

    input: Dollars = 0.0
    cached_input: Dollars | None = None
    """`null` is the price of `input`."""
    output: Dollars = 0.0
    reasoning: Dollars | None = None
    """`null` is the price of `output`."""
    request: Dollars = 0.0
    """US dollars for each request."""
    tiers: list[PriceTier] = Field(default_factory=list)
    """Other prices of long requests, such as above 200,000 input tokens. The highest `above` that is passed counts."""

    def at(self, input_tokens: int) -> Price:
        """Returns the price, without tiers, of a request with this number of input tokens."""
        tier = max(
            (tier for tier in self.tiers if input_tokens > tier.above), key=lambda tier: tier.above, default=None
        )
        if tier is None:
            return self.model_copy(update={"tiers": []})
        return Price(**tier.model_dump(exclude={"above"}), request=self.request)

    def dearest(self, input_tokens: int = 0) -> Price:
        """Returns the highest price in a request of up to this number of input tokens.

        Whether tokens are cached or reasoning is not known beforehand, so the dearest kind counts.
        """
        possible = [self.at(0), *(self.at(tier.above + 1) for tier in self.tiers if input_tokens > tier.above)]
        return Price(
            input=max(max(price.input, price.cached_input or 0.0) for price in possible),
            output=max(max(price.output, price.reasoning or 0.0) for price in possible),
            request=self.request,
        )

    def times(self, factor: float) -> Price:
        """Returns all prices multiplied by `factor`, such as 0.5 for a batch."""

        def scaled(prices: dict[str, Any]) -> dict[str, Any]:
            return {
                name: value if value is None or name == "above" else value * factor for name, value in prices.items()
            }

        fields = self.model_dump(exclude={"tiers"})
        return Price(**scaled(fields), tiers=[PriceTier(**scaled(tier.model_dump())) for tier in self.tiers])
