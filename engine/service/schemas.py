"""What requests say, checked before anything is computed. What they mean: `engine.explainer.Explainer.explain_many`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from engine.errors import OptionError
from engine.index.listing import LONGEST_ID
from engine.methods import COUNTED_BY, Method, method_named
from engine.methods.rise import Rise

PICTURE: dict[str, Any] = {
    "b64": "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAIAgMAAAC5YVYYAAAACVBMVEX////IHh4eHsi7usfsAAAAGUlEQVR42mNgYGBgUGASZWBigKHXDAwM"
    "DAAI7AErDlRQXQAAAABJRU5ErkJggg=="
}
"""A PNG of 8 x 8 pixels, so that examples can be sent as they are."""
EXAMPLE: dict[str, Any] = {"query": PICTURE, "references": [PICTURE], "top": 3}
SEARCH_EXAMPLE: dict[str, Any] = {"query": PICTURE, "k": 5, "explain": True, "top": 3}
ANNOTATE_EXAMPLE: dict[str, Any] = {"query": PICTURE, "ids": ["red/2.jpg", "blue/7.jpg"], "top": 3}
Whole = Annotated[int, BeforeValidator(lambda v: int(v) if isinstance(v, float) and v.is_integer() else v)]
"""A whole number, which JSON may write as 64.0."""
Deadline = Annotated[float, Field(gt=0, le=3600)]
AT_THE_DEADLINE = "seconds after which the map is wanted as it is then, with its error"


class Failure(BaseModel):
    """Why a request was not answered."""

    error: str = Field(description="one sentence: what was got, what is wanted, what to do")


class Strict(BaseModel):
    """A JSON object without fields that nobody reads, and whose numbers are no truth values, nor the other way round."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PictureGiven(Strict):
    """A picture: its file in base64, the id of a prepared one or of a row, or its embedding. Exactly one of them."""

    b64: str | None = Field(
        None, description="the bytes of a picture's file, in base64", json_schema_extra={"contentEncoding": "base64"}
    )
    id: str | None = Field(
        None, max_length=LONGEST_ID, description="of a row of the index, or of a prepared picture, see POST /v1/prepare"
    )
    embedding: list[FiniteFloat] | None = Field(None, description="as :predict gives it")

    @model_validator(mode="after")
    def _one(self) -> "PictureGiven":
        given = [name for name in ("b64", "id", "embedding") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of b64, id and embedding, got {' and '.join(given) or 'none'}")
        return self


class Passes(Strict):
    """How the passes over a picture are run."""

    method: Literal["rise", "window", "lime", "mask", "tokens"] = "rise"
    masks: Whole | None = Field(None, ge=1, description="passes over a picture; left out: as many as it needs")
    estimator: Literal["regression", "sane"] | None = Field(None, description="of method rise")
    seed: Whole | None = Field(None, ge=0, lt=2**64)
    baseline: Literal["mean", "black", "white", "blur"] | None = Field(None, description="what hidden pixels become")
    tolerance: Annotated[float, Field(gt=0, le=1)] | None = None
    deadline: Deadline | None = Field(None, description=AT_THE_DEADLINE)

    def chosen(self, most_masks: int) -> Method:
        """Return the method's options. Raises OptionError where they do not go together, or ask for too many passes."""
        method = method_named(self.method)
        fields = {name: value for name in ("estimator", "seed") if (value := getattr(self, name)) is not None}
        if "estimator" in fields and not isinstance(method, Rise):
            raise OptionError(f"estimator goes with method rise, not {self.method}: leave it out")
        if self.masks is not None:
            if self.masks > most_masks:
                raise OptionError(f"masks must be at most {most_masks} here, got {self.masks}")
            fields["masks"] = self.masks
        if not fields:
            return method
        counted = COUNTED_BY.get(type(method))
        if counted is None:
            raise OptionError(f"{next(iter(fields))} does not apply to method {self.method}: leave it out")
        if "masks" in fields:
            fields[counted] = fields.pop("masks")
        return type(method)(**fields)


class ExplainOptions(Passes):
    """How a query is explained."""

    mode: Literal["fixed", "pair", "both"] = "fixed"
    condition: str | int | None = Field(None, description="name or index, for models with conditions")
    top: Whole | None = Field(None, ge=0, le=1_000_000, description="attributes of a kind to name at most")
    ranking: Literal["joint", "sane"] = "joint"
    rather_than: PictureGiven | None = Field(None, description="why the references, and not this one?")


class Instance(ExplainOptions):
    """A query and its references: one explanation each."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": EXAMPLE})

    query: PictureGiven
    references: list[PictureGiven] = Field(min_length=1)


class Form(ExplainOptions):
    """The part `options` of a form: what files are not sent for."""

    query: PictureGiven | None = None
    references: list[PictureGiven] = []


class ExplainRequest(Strict):
    """KServe's explain request."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": {"instances": [EXAMPLE]}})

    instances: list[Instance] = Field(min_length=1)


class PredictRequest(Strict):
    """KServe's predict request."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": {"instances": [PICTURE]}})

    instances: list[PictureGiven] = Field(min_length=1)


class RowOptions(Strict):
    """How rows of the index are explained."""

    mode: Literal["fixed", "pair"] = Field("pair", description="pair: with the map of each row too")
    top: Whole | None = Field(None, ge=0, le=1_000_000, description="attributes of a kind to name at most")


class SearchOptions(RowOptions):
    """What is wanted of a search."""

    k: Whole = Field(20, ge=1, le=10_000, description="matches at most")
    explain: bool = Field(False, description="whether each match gets an explanation")


class SearchById(SearchOptions):
    """A search for what is similar to a row, or to a prepared picture; of a query string, where all are texts."""

    model_config = ConfigDict(extra="forbid", strict=False)

    id: str = Field(max_length=LONGEST_ID, description="of a row of the index, or of a prepared picture")


class QueryGiven(Strict):
    """A query in JSON, or none beside a file."""

    query: PictureGiven | None = Field(None, description="left out in a form that has the file `query`")
    deadline: Deadline | None = Field(None, description=f"for a query that is a picture: {AT_THE_DEADLINE}")


class SearchRequest(SearchOptions, QueryGiven):
    """A search for what is similar to a picture."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": SEARCH_EXAMPLE})


class AnnotateRequest(RowOptions, QueryGiven):
    """What another search found, to be explained in its order."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": ANNOTATE_EXAMPLE})

    ids: list[Annotated[str, Field(max_length=LONGEST_ID)]] = Field(min_length=1, description="ids of rows; others get null")
