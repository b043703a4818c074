"""Weight formats: how a checkpoint stores its matrices. One scheme a file; today the plain one."""
