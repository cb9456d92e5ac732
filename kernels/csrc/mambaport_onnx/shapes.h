/* Shapes as texts of axes: mambaport_onnx/operators.py says what a text means. A text is read once per node; then it is
   compared with the lengths of tensors, or gives the lengths of an output. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { MOST_AXES = 8, MOST_TERMS = 2, MOST_SHAPES = 3, MOST_NAMES = 16, NAME_SIZE = 16, UNKNOWN = -1 };

/* The names of an operator's lengths, and their values; UNKNOWN before a tensor has given one. */
struct lengths {
    int count;
    char name[MOST_NAMES][NAME_SIZE];
    int64_t value[MOST_NAMES];
    const char *symbol[MOST_NAMES]; /* while shapes are inferred: the model's own name of an unknown length, or NULL */
    int rest_count;                 /* the axes `...`; UNKNOWN before a tensor has given them */
    int64_t rest[MOST_AXES];
};

/* constant + the sum of factor * length; offset: the number of the attribute of an axis such as dim@z_offset, or -1. */
struct axis {
    int8_t terms, name[MOST_TERMS], factor[MOST_TERMS], constant, offset;
};

struct shape {
    int8_t count, rest; /* rest: 1 where the shape begins with `...`, which is none of the axes */
    struct axis axis[MOST_AXES];
};

/* The shapes of a value, of which the number of axes chooses one. */
struct shapes {
    int8_t count;
    struct shape shape[MOST_SHAPES];
};

/* Reads a text; `attribute` returns the number of the attribute of a name. Returns 0 for a text that is no shape. */
int shapes_read(struct shapes *shapes, const char *text, struct lengths *lengths,
                int (*attribute)(const void *context, const char *name), const void *context);

/* The shape for a tensor of `count` axes, or NULL. */
const struct shape *shapes_for(const struct shapes *shapes, int count);

/* The length that an axis has, or UNKNOWN. */
int64_t axis_length(const struct axis *axis, const struct lengths *lengths);

/* Gives the lengths of the axes that are one name each the values of `found`, where a value is UNKNOWN. */
void shape_bind(const struct shape *shape, int count, const int64_t *found, const char *const *symbols,
                struct lengths *lengths);

/* Whether the lengths `found` are those of the shape. `offsets` has the value of each attribute. */
int shape_fits(const struct shape *shape, int count, const int64_t *found, const struct lengths *lengths,
               const double *offsets);

/* Writes to `text` the shape as a message names it, such as (batch=1, dim=4, width-1=3). */
void shape_name(char *text, size_t size, const struct shape *shape, const struct lengths *lengths,
                const double *offsets);
