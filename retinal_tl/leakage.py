# TEMPORARY stand-in
from dataclasses import dataclass
import numpy as np
@dataclass(frozen=True)
class Pair:
    first:str; second:str; score:float
def read_signatures(paths, progress=False): return [str(p) for p in paths], np.zeros((len(paths),4,4),np.float32), []
def find_same_eyes(a,b,c=None,d=None,threshold=.57): return []
def merge_eyes(examples,pairs): return list(examples)
def guard(training,validation,allow=False): return []
