/* @P@: a trained network. What it is, and how it is built, is said in @file@.c. */
#ifndef @M@_H
#define @M@_H

#ifdef __cplusplus
extern "C" {
#endif
@declarations@
#ifdef __cplusplus
}
#endif

#endif
