#include "shapes.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int is_digit(char c) { return c >= '0' && c <= '9'; }

static int ends_axis(char c) { return c == ' ' || c == '|' || c == '\0'; }

/* The number of the name of `size` characters, which is new where no shape before had it; -1 where it is too much. */
static int name_number(struct lengths *lengths, const char *name, size_t size) {
    for (int i = 0; i < lengths->count; i++)
        if (strlen(lengths->name[i]) == size && memcmp(lengths->name[i], name, size) == 0) return i;
    if (lengths->count == MOST_NAMES || size >= NAME_SIZE) return -1;
    memcpy(lengths->name[lengths->count], name, size);
    lengths->name[lengths->count][size] = '\0';
    lengths->value[lengths->count] = UNKNOWN;
    lengths->symbol[lengths->count] = NULL;
    return lengths->count++;
}

/* Reads terms such as rank+2*dstate up to the end of the axis or to @. Returns the place of that, or NULL. */
static const char *read_terms(struct axis *axis, const char *text, struct lengths *lengths) {
    for (int sign = 1;; text++) {
        int8_t number = 0, factor = 1;
        const int has_number = is_digit(*text);
        while (is_digit(*text)) number = (int8_t)(number * 10 + (*text++ - '0'));
        if (has_number && *text != '*') axis->constant = (int8_t)(axis->constant + sign * number);
        else {
            if (has_number) text++, factor = number;
            const size_t size = strcspn(text, "+-@ |");
            const int name = size ? name_number(lengths, text, size) : -1;
            if (name < 0 || axis->terms == MOST_TERMS) return NULL;
            axis->name[axis->terms] = (int8_t)name;
            axis->factor[axis->terms++] = (int8_t)(sign * factor);
            text += size;
        }
        if (*text != '+' && *text != '-') return text;
        sign = *text == '+' ? 1 : -1;
    }
}

int shapes_read(struct shapes *shapes, const char *text, struct lengths *lengths,
                int (*attribute)(const void *context, const char *name), const void *context) {
    memset(shapes, 0, sizeof *shapes);
    for (;; text++) {
        if (shapes->count == MOST_SHAPES) return 0;
        struct shape *const shape = &shapes->shape[shapes->count++];
        if (strncmp(text, "... ", 4) == 0) shape->rest = 1, text += 4;
        for (;; text++) {
            if (shape->count == MOST_AXES) return 0;
            struct axis *const axis = &shape->axis[shape->count++];
            axis->offset = -1;
            text = read_terms(axis, text, lengths);
            if (!text) return 0;
            if (*text == '@') {
                char name[NAME_SIZE];
                const size_t size = strcspn(++text, " |");
                if (size >= sizeof name) return 0;
                memcpy(name, text, size);
                name[size] = '\0';
                axis->offset = (int8_t)attribute(context, name);
                if (axis->offset < 0) return 0;
                text += size;
            }
            if (*text != ' ') break;
        }
        if (!ends_axis(*text)) return 0;
        if (*text == '\0') return 1;
    }
}

const struct shape *shapes_for(const struct shapes *shapes, int count) {
    for (int i = 0; i < shapes->count; i++) {
        const struct shape *const shape = &shapes->shape[i];
        if (shape->rest ? count >= shape->count : count == shape->count) return shape;
    }
    return NULL;
}

int64_t axis_length(const struct axis *axis, const struct lengths *lengths) {
    int64_t length = axis->constant;
    for (int i = 0; i < axis->terms; i++) {
        const int64_t value = lengths->value[axis->name[i]], factor = axis->factor[i];
        int64_t part;
        if (value == UNKNOWN || __builtin_mul_overflow(value, factor, &part) ||
            __builtin_add_overflow(length, part, &length))
            return UNKNOWN;
    }
    return length < 0 ? UNKNOWN : length;
}

/* The number of the name that an axis is, or -1 for an axis of another form. */
static int only_name(const struct axis *axis) {
    const int simple = axis->terms == 1 && axis->factor[0] == 1 && axis->constant == 0 && axis->offset < 0;
    return simple ? axis->name[0] : -1;
}

void shape_bind(const struct shape *shape, int count, const int64_t *found, const char *const *symbols,
                struct lengths *lengths) {
    const int rest = count - shape->count;
    if (shape->rest && lengths->rest_count == UNKNOWN) {
        lengths->rest_count = rest;
        memcpy(lengths->rest, found, (size_t)rest * sizeof *found);
    }
    for (int i = 0; i < shape->count; i++) {
        const int name = only_name(&shape->axis[i]);
        if (name < 0) continue;
        if (lengths->value[name] == UNKNOWN) lengths->value[name] = found[rest + i];
        if (symbols && !lengths->symbol[name]) lengths->symbol[name] = symbols[rest + i];
    }
}

int shape_fits(const struct shape *shape, int count, const int64_t *found, const struct lengths *lengths,
               const double *offsets) {
    const int rest = count - shape->count;
    if (shape->rest && (rest != lengths->rest_count || memcmp(found, lengths->rest, (size_t)rest * sizeof *found) != 0))
        return 0;
    for (int i = 0; i < shape->count; i++) {
        const struct axis *const axis = &shape->axis[i];
        const int64_t length = axis_length(axis, lengths), has = found[rest + i];
        const double offset = axis->offset < 0 ? -1.0 : offsets[axis->offset];
        if (length == UNKNOWN) return 0;
        if (offset < 0.0 ? has != length : (double)has - offset < (double)length) return 0;
    }
    return 1;
}

struct writer {
    char *text;
    size_t size, used;
};

__attribute__((format(printf, 2, 3))) static void put(struct writer *to, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(to->text + to->used, to->size - to->used, format, arguments);
    va_end(arguments);
    if (length > 0) to->used += (size_t)length < to->size - to->used ? (size_t)length : to->size - to->used - 1;
}

void shape_name(char *text, size_t size, const struct shape *shape, const struct lengths *lengths,
                const double *offsets) {
    struct writer to = {text, size, 0};
    const char *before = "(";
    for (int i = 0; shape->rest && i < lengths->rest_count; i++, before = ", ")
        put(&to, "%s%lld", before, (long long)lengths->rest[i]);
    for (int i = 0; i < shape->count; i++, before = ", ") {
        const struct axis *const axis = &shape->axis[i];
        put(&to, "%s", before);
        for (int t = 0; t < axis->terms; t++) {
            put(&to, "%s", t && axis->factor[t] > 0 ? "+" : "");
            if (axis->factor[t] != 1) put(&to, "%d*", axis->factor[t]);
            put(&to, "%s", lengths->name[axis->name[t]]);
        }
        if (axis->terms && axis->constant) put(&to, "%+d", axis->constant);
        const int64_t length = axis_length(axis, lengths);
        if (length != UNKNOWN) put(&to, "%s%lld", axis->terms ? "=" : "", (long long)length);
        if (axis->offset >= 0 && offsets[axis->offset] >= 0.0) put(&to, " from channel %.0f on", offsets[axis->offset]);
    }
    put(&to, ")");
}
