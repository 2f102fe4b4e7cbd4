
    !> Set high + low, times 2**k, to exp(x).
    pure subroutine exp_in_two(x, high, low, k)
        real(wp), intent(in) :: x
        real(wp), intent(out) :: high, low
        integer, intent(out) :: k
        real(wp), parameter :: c(*) = [ &
@EXP@]
        real(wp) :: whole, near, rest, r, more, one, tail

        whole = (times(x, @ONE_OVER_LN2@) + @ROUNDING@) - @ROUNDING@
        near = x - times(whole, @LN2_HIGH@)
        rest = times(whole, @LN2_LOW@)
        r = near - rest
        more = (near - r) - rest
        tail = times(times(r, r), polynomial(c, r)) + (more + times(r, more))
        one = 1 + r
        tail = tail + ((1 - one) + r)
        high = one + tail
        low = (one - high) + tail
        k = int(whole)
    end subroutine
