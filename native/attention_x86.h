/* What attention has in common on x86. */
#ifndef PARITAS_ATTENTION_X86_H
#define PARITAS_ATTENTION_X86_H

#include "attention_int16.h"
#include "lanes_x86.h"

#endif
