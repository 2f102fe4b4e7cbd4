#include <stddef.h>

enum { @M@_FEATURES = @features@, @M@_OUTPUTS = @outputs@ };
@declare_names@@declare_load@
/* Set y to the outputs of one row of inputs x. An input that is not finite gives outputs that are not. */
void @P@_predict_one(const double x[@M@_FEATURES], double y[@M@_OUTPUTS]);

/* Set y (rows, @M@_OUTPUTS) to the outputs of x (rows, @M@_FEATURES), row after row: as predict_one, only faster.
   A row has the same bits in whatever company it is computed. */
void @P@_predict_many(size_t rows, const double *x, double *y);
@declare_label@
